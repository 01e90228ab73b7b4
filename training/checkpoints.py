"""Checkpoints on disk: replaced whole or not at all, and never another run's."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from quantizers.plain import plain
from training.errors import DiskFull
from training.recipe import Recipe


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `path` anew. Raises DiskFull, leaving the one that was there."""
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into the latter
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        kept = "the one before is kept" if path.exists() else "there is none yet"
        reason = plain(error.__cause__ or error.__context__ or error)
        raise DiskFull(f"{path}: checkpoint not written ({reason}); {kept}") from error


def load_checkpoint(path: Path, recipe: Recipe) -> dict[str, Any] | None:
    """The state at `path`, None if there is none.

    Raises ValueError where it is damaged or another recipe's, naming the fields that differ.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, weights_only=True)
        saved = Recipe.from_dict(state["recipe"])
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: no usable checkpoint ({reason}); remove it") from None
    if saved != recipe:
        was, now = saved.as_dict(), recipe.as_dict()
        told = ", ".join(f"{k} {was[k]} there, {now[k]} here" for k in now if was[k] != now[k])
        raise ValueError(
            f"{path}: checkpoint of another recipe ({told}); remove it or train elsewhere"
        )
    return state
