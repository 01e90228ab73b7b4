"""The Hugging Face hub: which commit a name stands for, and why something cannot be had from it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from quantizers.checkpoint import UnusableModel

SECONDS = 8.0  # the hub's time to answer; one that did not is left alone for a minute
_LEAVE_ALONE_SECONDS = 60.0
_COMMIT = re.compile(r"[0-9a-f]{40}")
_silent_since = float("-inf")


class HubUnreachable(ConnectionError):
    """The hub does not answer, and the local cache does not know."""


def resolve_commit(repo: str, revision: str | None) -> str:
    """The commit behind a branch or tag (None: the main one); a commit is taken as it is.

    Asks the hub, then the local cache. Raises UnusableModel where the hub knows no such repository
    or revision, HubUnreachable where nobody can tell.
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi

    return str(
        _answer(
            lambda offline: HfApi().resolve_revision(
                repo, revision=revision, local_files_only=offline
            ),
            f"{repo}@{revision or 'main'}",
        )
    )


def check_available(repo: str, revision: str | None) -> None:
    """Raises as `resolve_commit` does for a model that neither the local cache nor the hub has.

    Fetches nothing but the repository's description.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    commit = resolve_commit(repo, revision)
    if isinstance(try_to_load_from_cache(repo, "config.json", revision=commit), str):
        return

    def described(offline: bool) -> Any:
        if offline:
            raise ConnectionError("not asked again")
        return HfApi().model_info(repo, revision=commit)

    _answer(described, f"{repo}@{revision or 'main'}")


def _answer(question: Callable[[bool], Any], name: str) -> Any:
    """What the hub says, or the local cache (`question(True)`) where the hub is silent."""
    global _silent_since
    offline = time.monotonic() < _silent_since + _LEAVE_ALONE_SECONDS
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.append(question(offline))
        except Exception as error:  # raised again in the thread that waits
            answers.append(error)

    # A daemon, since a connection that hangs cannot be interrupted.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS)
    found = answers[0] if answers else TimeoutError(f"no answer within {SECONDS:g} s")
    if not isinstance(found, Exception):
        return found
    problem = hub_problem(found)
    if problem is not None:
        raise UnusableModel(f"{name}: {problem}")
    if not offline:
        _silent_since = time.monotonic()
        return _answer(question, name)
    raise HubUnreachable(
        f"{name}: the Hugging Face hub cannot be reached and the local cache "
        f"({_cache()}) lacks it; give a local directory as `path:`, or come back with a network"
    )


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


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
            return "not a name that the hub can have (owner/name)"
        if isinstance(cause, errors.DisabledRepoError):
            return "its authors or the hub have disabled this repository"
    return None


def is_unreachable(error: BaseException) -> bool:
    """Whether an error, or what caused it, is a hub that does not answer."""
    from huggingface_hub import errors

    silent = (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, ConnectionError)
    return any(isinstance(cause, silent) for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
