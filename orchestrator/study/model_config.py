"""A model's config.json as far as the planner needs it: how must the model be scored?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from evaluation.engine.model_config import Config, mended, needs_bos
from orchestrator.study.models import ModelEntry


def model_config(entry: ModelEntry) -> Config:
    """What config.json says, of a local directory or in the hub's cache; the hub is not asked.

    Where there is none yet, what the hub's name tells: a worker, which reads the model itself,
    refuses a protocol that does not do it justice.
    """
    path = config_file(entry)
    if path is not None:
        try:
            config = json.loads(path.read_text())
        except (OSError, ValueError):  # an unusable model, which is said elsewhere
            config = None
        if isinstance(config, dict):
            return config
    return {"model_type": str(entry.hub or "").lower()}


def is_known(config: Config) -> bool:
    """Whether it is what a config.json says, not what the hub's name tells."""
    return len(config) > 1


def scoring_keys(config: Config, on_gpu: bool) -> dict[str, str]:
    """What the protocols of this model carry beside those of others (see `mended`)."""
    return mended(config, "cuda" if on_gpu else "cpu")


def context_of(entry: ModelEntry) -> int | None:
    """The tokens that the model reads, as its config.json says; None where that says nothing."""
    config = model_config(entry)
    part = config.get("text_config") or config
    found = [part.get(key) for key in ("n_positions", "max_position_embeddings", "n_ctx")]
    return next((int(tokens) for tokens in found if tokens), None)


def begins_with_bos(bos: bool | Literal["auto"], config: Config) -> bool:
    """Whether a corpus's windows begin with BOS for this model; `bos` as the sweep file asks."""
    return needs_bos(config) if bos == "auto" else bos


def config_file(entry: ModelEntry) -> Path | None:
    """Of a local directory, or in the hub's cache; None where the latter has none."""
    if entry.path is not None:
        return Path(entry.path) / "config.json"
    from huggingface_hub import try_to_load_from_cache

    found: Any = try_to_load_from_cache(
        str(entry.hub), "config.json", revision=entry.revision or "main"
    )
    return Path(found) if isinstance(found, str) else None
