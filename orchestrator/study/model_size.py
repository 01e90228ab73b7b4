"""How many parameters a model has, as far as it can be told before it is loaded."""

from __future__ import annotations

from orchestrator.study.model_config import config_file
from orchestrator.study.models import ModelEntry
from quantizers.checkpoint import UnusableModel, count_stored


def size_of(entry: ModelEntry) -> int | None:
    """What models.yaml says, or what the headers of its safetensors files count (tied weights that
    are stored twice count twice). None where neither tells: the hub is not asked."""
    if entry.n_params is not None:
        return entry.n_params
    config = config_file(entry)
    if config is None or entry.weights != "safetensors":
        return None
    try:
        return count_stored(config.parent)
    except UnusableModel:  # of the hub's cache only the config may be there; else said elsewhere
        return None
