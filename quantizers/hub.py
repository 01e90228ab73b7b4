"""The Hugging Face hub: which commit a name stands for, and why something cannot be had from it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantizers.checkpoint import UnusableModel

if TYPE_CHECKING:  # half a second to import, and most models are local
    from huggingface_hub import HfApi

SECONDS = 8.0  # the hub's time to answer; one that did not is left alone for a minute
_LEAVE_ALONE_SECONDS = 60.0
_COMMIT = re.compile(r"[0-9a-f]{40}")
_silent_since = float("-inf")


class HubUnreachable(ConnectionError):
    """The hub does not answer, and the local cache does not know."""


@dataclass(frozen=True)
class Repository:
    """A model on the hub at one commit, the names of its files, and where the hub is silent its
    local copy."""

    commit: str
    files: frozenset[str]
    copy: Path | None = None


def resolve_commit(repo: str, revision: str | None) -> str:
    """The commit behind a branch or tag (None: the main one); a commit is taken as it is.

    Asks the hub, then the local cache. Raises UnusableModel where the hub knows no such repository
    or revision, HubUnreachable where nobody can tell.
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    commit = ask_hub(
        lambda api: api.resolve_revision(repo, revision=revision).resolved, _named(repo, revision)
    )
    if commit is None:
        commit = _cached_commit(repo, revision)
    if commit is None:
        raise HubUnreachable(_neither(repo, revision))
    return commit


def find_repository(repo: str, revision: str | None) -> Repository:
    """Where a model can be had now, within SECONDS of a hub that is silent; no file is fetched.

    Raises as `resolve_commit` does where it can be had neither from the hub nor from the cache.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    commit = resolve_commit(repo, revision)
    described = ask_hub(lambda api: api.model_info(repo, revision=commit), _named(repo, revision))
    if described is not None:
        return Repository(commit, frozenset(f.rfilename for f in described.siblings or []))
    folder = repo_folder_name(repo_id=repo, repo_type="model")
    copy = Path(constants.HF_HUB_CACHE) / folder / "snapshots" / commit
    if not copy.is_dir():
        raise HubUnreachable(_neither(repo, revision))
    return Repository(commit, frozenset(file.name for file in copy.iterdir()), copy)


def ask_hub(question: Callable[[HfApi], Any], named: str) -> Any:
    """What the hub says within SECONDS; None where it is silent. Raises UnusableModel where it
    says no."""
    global _silent_since
    from huggingface_hub import HfApi

    if time.monotonic() < _silent_since + _LEAVE_ALONE_SECONDS:
        return None
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.append(question(HfApi()))
        except Exception as error:  # judged by the thread that waits
            answers.append(error)

    # A daemon, since a connection that hangs cannot be interrupted.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS)
    answer = answers[0] if answers else TimeoutError()
    if not isinstance(answer, Exception):
        return answer
    if problem := hub_problem(answer):
        raise UnusableModel(f"{named}: {problem}")
    _silent_since = time.monotonic()
    return None


def _cached_commit(repo: str, revision: str | None) -> str | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionResolutionError

    with suppress(RevisionResolutionError):
        return HfApi().resolve_revision(repo, revision=revision, local_files_only=True).resolved
    return None


def _named(repo: str, revision: str | None) -> str:
    return f"{repo}@{revision or 'main'}"


def _neither(repo: str, revision: str | None) -> str:
    from huggingface_hub import constants

    return (
        f"{_named(repo, revision)}: the Hugging Face hub cannot be reached, and the local cache "
        f"({constants.HF_HUB_CACHE}) lacks it; give a local directory as `path:` instead"
    )


def hub_problem(error: BaseException) -> str | None:
    """What the hub said no to, in a few words; None where it did not answer, or was not asked."""
    from huggingface_hub import errors

    for cause in _causes(error):
        if isinstance(cause, errors.GatedRepoError):
            return "gated: accept its terms on the hub, then log in (hf auth login)"
        if isinstance(cause, errors.RepositoryNotFoundError):
            return "the hub has no such repository, or it is private (hf auth login)"
        if isinstance(cause, errors.RevisionNotFoundError):
            return "the hub has no such revision of it"
        if isinstance(cause, errors.HFValidationError):
            return "neither a local folder nor a name that the hub can have (owner/name)"
        if isinstance(cause, errors.DisabledRepoError):
            return "its authors or the hub have disabled this repository"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
