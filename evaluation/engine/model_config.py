"""What a model's config.json says about how it is scored. Torch-free: sweeps are planned by it.

Where earlier versions scored some models wrongly, the protocols of those models, and of no others,
carry what was mended, so that rows from before are never joined with today's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]

NEED_BOS = ("gemma",)  # in a model type: the families that the harness puts BOS in front of
LARGE_VOCABULARY = 4096  # tokens; below it torch's log_softmax was off by less than 1e-7 nats
# Frequencies that follow the longest row read, written into the model.
_ROW_BOUND_ROPES = ("dynamic", "longrope", "su")
_ROW_BOUND_TYPES = ("doge",)  # its mask follows the width of the batch


def needs_bos(config: Config) -> bool:
    """Whether texts make sense to a model only after BOS."""
    return any(name in str(_text(config).get("model_type", "")) for name in NEED_BOS)


def mended(config: Config, device: str) -> dict[str, str]:
    """Keys of the protocols of models whose scores were wrong before; none for all others.

    rows: rows changed each other's scores, or threads each other's. log_softmax: on a CPU it was
    low by up to 1.7e-5 with tens of thousands of tokens. device: "cpu" | "cuda".
    """
    text, keys = _text(config), {}
    if text.get("model_type") in _ROW_BOUND_TYPES or set(_ropes(text)) & set(_ROW_BOUND_ROPES):
        keys["rows"] = "alone"
    vocabulary = text.get("vocab_size") or LARGE_VOCABULARY + 1  # of a default, which are large
    if device == "cpu" and int(vocabulary) > LARGE_VOCABULARY:
        keys["log_softmax"] = "exact"
    return keys


def _text(config: Config) -> Config:
    """The part about the language model, where there are others."""
    part = config.get("text_config")
    return {**config, **part} if isinstance(part, Mapping) else config


def _ropes(config: Config) -> list[str]:
    """Kinds of rotary embeddings, of all layers."""
    found = []
    for key in ("rope_scaling", "rope_parameters"):
        value = config.get(key)
        parts = [value, *value.values()] if isinstance(value, Mapping) else []
        for part in parts:
            if isinstance(part, Mapping):
                found.append(str(part.get("rope_type") or part.get("type") or "default"))
    return found
