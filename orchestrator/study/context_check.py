"""Windows that no model of a sweep can read, found before any work as far as configs are known."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from orchestrator.errors import InputError
from orchestrator.study.model_config import context_of
from orchestrator.study.models import ModelEntry


def check_context(entries: Iterable[ModelEntry], context: int | None, where: Path) -> None:
    """Raises InputError where `context`, or a model's own in models.yaml, is more than it reads.

    Of hub models only those in the local cache are known; of others, workers find it.
    """
    for entry in entries:
        asked, longest = context or entry.context, context_of(entry)
        if asked and longest and asked > longest:
            raise InputError(
                f"{where}: context: {asked} exceeds the {longest} tokens that model {entry.name} "
                "can read; give a smaller `context`, or none for each model's own"
            )
