"""What a model's weights and tokenizer are called in the ids of its experiments.

Local files go by a digest of every byte, names on the hub by their commits; earlier versions
sampled large files and took branches as they were.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from orchestrator.errors import ModelInputError
from orchestrator.study.fingerprint import model_fingerprint, tokenizer_fingerprint
from orchestrator.study.models import ModelEntry
from quantizers.checkpoint import UnusableModel, check_names
from quantizers.hub import HubUnreachable, find_repository, resolve_commit


class Identified(NamedTuple):
    """A model, its revision (a commit or a digest, and its tokenizer's if that is named apart), and
    the revision that rows of earlier versions bear, if that is another."""

    entry: ModelEntry  # names on the hub pinned to their commits
    revision: str
    earlier: str | None


class _Name(NamedTuple):
    now: str
    earlier: str


def identify(entry: ModelEntry) -> Identified:
    """The model at the revision that enters the ids of its experiments.

    Raises ModelInputError for a local directory that cannot be used and for what the hub says it
    lacks. Where nobody can be asked for the commit of a branch, it stays the branch.
    """
    own_tokenizer = entry.tokenizer is None or entry.tokenizer == entry.source
    if entry.path is not None:
        found = model_fingerprint(Path(entry.path), entry.weights, entry.name, own_tokenizer)
        model = _Name(found.digest, found.earlier or found.digest)
    else:
        commit = _commit(entry, entry.source, entry.revision)
        model = _Name(commit or "main", entry.revision or "main")
        entry = entry.model_copy(update={"revision": commit})
    if own_tokenizer:
        return _identified(entry, model)
    assert entry.tokenizer is not None
    if Path(entry.tokenizer).is_dir():
        digest = tokenizer_fingerprint(Path(entry.tokenizer), entry.name)
        tokenizer = _Name(digest, digest)
    else:
        repository, _, revision = entry.tokenizer.partition("@")
        commit = _commit(entry, repository, revision or None)
        pinned = f"{repository}@{commit}" if commit else repository
        tokenizer = _Name(_digest(pinned), _digest(entry.tokenizer))
        entry = entry.model_copy(update={"tokenizer": pinned})
    both = _Name(f"{model.now}+{tokenizer.now}", f"{model.earlier}+{tokenizer.earlier}")
    return _identified(entry, both)


def _identified(entry: ModelEntry, name: _Name) -> Identified:
    return Identified(entry, name.now, name.earlier if name.earlier != name.now else None)


def _commit(entry: ModelEntry, repository: str, revision: str | None) -> str | None:
    """The commit of a name on the hub, or its branch where neither hub nor cache can tell."""
    try:
        return resolve_commit(repository, revision)
    except UnusableModel as error:
        raise ModelInputError(f"model {entry.name}: {error}") from None
    except HubUnreachable:
        return revision


def _digest(name: str) -> str:
    return "hub-" + hashlib.sha256(name.encode()).hexdigest()[:24]


def check_available(entry: ModelEntry) -> None:
    """Raises ModelInputError for a hub model that neither the hub nor the local cache has, or not
    in the format that models.yaml says."""
    if entry.hub is None:
        return
    try:
        check_names(find_repository(entry.hub, entry.revision).files, entry.weights, entry.hub)
    except (UnusableModel, HubUnreachable) as error:
        raise ModelInputError(f"model {entry.name}: {error}") from None
