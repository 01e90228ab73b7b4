"""The models that a command names, of models.yaml or another such file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import InputError
from orchestrator.paths import SHIPPED
from orchestrator.study.models import ModelEntry, load_models
from orchestrator.study.spec import select_models


def chosen_models(names: Sequence[str], listing: Path | None) -> list[ModelEntry]:
    """Models and whole families by name. Raises InputError for an unknown one, saying where they
    are listed."""
    where = listing or SHIPPED / "models.yaml"
    return select_models(names, load_models(where), f"{where}")


def chosen_model(name: str, listing: Path | None) -> ModelEntry:
    """The one model of this name. Raises InputError as above, and for a family of several."""
    entries = chosen_models([name], listing)
    if len(entries) > 1:
        known = ", ".join(entry.name for entry in entries)
        raise InputError(f"{name} is a family: name one of its models ({known})")
    return entries[0]
