"""Which model at which precision fits a device: its weights and its context."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.answers.latency import LATENCY, latencies
from analysis.answers.optimal import check_family
from analysis.curves.budget import format_bits
from analysis.curves.metrics import larger_is_better
from analysis.curves.points import curve_points
from analysis.curves.settings import settings_of


def cache_bits_per_token(config: Mapping[str, Any]) -> int | None:
    """Bits of keys and values one token of context keeps, from a transformers config.json.

    2 (K and V) x layers x key-value heads x head size x 16 bit. None for an architecture whose
    config does not say. Names differ: num_key_value_heads, Falcon's num_kv_heads or multi_query
    (one head, unless its new decoder says otherwise), GPT-BigCode's multi_query.
    """
    layers = config.get("num_hidden_layers", config.get("n_layer"))
    heads = config.get("num_attention_heads", config.get("n_head"))
    hidden = config.get("hidden_size", config.get("n_embd"))
    if not (layers and heads and hidden):
        return None
    head_size = config.get("head_dim") or hidden // heads
    return int(2 * layers * _key_value_heads(config, heads) * head_size * 16)


def _key_value_heads(config: Mapping[str, Any], heads: int) -> int:
    if config.get("num_key_value_heads"):
        return int(config["num_key_value_heads"])
    if config.get("new_decoder_architecture"):
        return int(config.get("num_kv_heads") or config.get("n_head_kv") or heads)
    return 1 if config.get("multi_query") else int(config.get("num_kv_heads") or heads)


@dataclass(frozen=True)
class Serving:
    """How a model is used: what its memory holds beside the weights."""

    context: int = 0  # tokens of each sequence whose keys and values are kept
    batch: int = 1  # sequences


def choices_for_memory(
    results: pd.DataFrame,
    memory_bits: float,
    cache_bits: Mapping[str, int | None],
    serving: Serving = Serving(),
    family: str | None = None,
    metric: str = "zero_shot",
    task: str | None = None,
) -> pd.DataFrame:
    """Every experiment that fits `memory_bits` with its context, the best first within its task.

    Needed are the weights (total_bits) and what `serving` keeps at the model's
    `cache_bits` (model -> bits a token, 16-bit keys and values; fewer where the setting rounds
    them, whose scales are not counted); activations and what the runtime takes for itself are not.
    Experiments of a model whose cache is unknown are left out unless the context is 0.

    Columns: task, family, model, setting, bits, data_type, block_size,
    weights, kv_bits_per_token (what a token of context keeps; NaN where unknown), cache, needed
    (bits), free (text), value, stderr, ms_per_token (NaN where no latency was measured with this
    batch). Raises ValueError for memory or context that is not positive,
    as well as for what curve_points refuses.
    """
    context, batch = serving.context, serving.batch
    if not memory_bits > 0 or context < 0 or batch < 1:
        raise ValueError("memory and batch must be positive, and context at least 0 tokens")
    if family is not None:
        check_family(results, family)
        results = results[results["family"] == family]
    points = curve_points(results, metric, task)
    weights = points["total_bits"].to_numpy(dtype=np.float64, na_value=np.nan)
    per_token = points["model"].map(lambda model: cache_bits.get(model))
    per_token = pd.to_numeric(per_token, errors="coerce").to_numpy(dtype=np.float64)
    formats = [setting.cache for setting in settings_of(points)]
    per_token = per_token * [1.0 if kept is None else kept.bits / 16 for kept in formats]
    cache = np.zeros(len(points)) if context == 0 else per_token * context * batch
    latency = latencies(results, batch)
    table = points.assign(
        weights=weights,
        kv_bits_per_token=per_token,
        cache=cache,
        needed=weights + cache,
        ms_per_token=points["experiment_id"].map(latency).astype(float),
    )
    table = table[(table["needed"] <= memory_bits) & np.isfinite(table["value"])]
    better = larger_is_better(metric)
    table = table.assign(_score=table["value"] if better else -table["value"])
    table = table.sort_values(
        ["task", "_score", "needed"], ascending=[True, False, True], kind="stable"
    )
    table["setting"] = [setting.label for setting in settings_of(table)]
    table["free"] = [format_bits(max(bits, 0.0)) for bits in memory_bits - table["needed"]]
    columns = ["task", "family", "model", "setting", "bits", "data_type", "block_size", "weights"]
    columns += ["kv_bits_per_token", "cache", "needed", "free", "value", "stderr", LATENCY]
    return table[columns].reset_index(drop=True)
