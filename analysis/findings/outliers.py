"""Does a unit's weight spread tell its features' size? (Section 3, appendix D, table 2.)"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from evaluation.measurement import Measurement, Metric

if TYPE_CHECKING:
    import torch

TASK = "weights and features"
STD_RATIO = "std_ratio"
STATISTICS = ("spearman", "pearson", STD_RATIO)
# Kind of site -> as metrics name it.
_NAMES = {"attention_output": "attention output", "up": "FFN1", "down": "FFN2"}
PAIRS = {
    "attention output": "QKV → attention output",
    "FFN1": "attention output → FFN1",
    "FFN2": "FFN1 → activation (control)",
}


def outlier_correlations(model: object, magnitudes: Mapping[str, torch.Tensor]) -> pd.DataFrame:
    """Rank correlation of each unit's weight std with the mean |feature| that it produces.

    `model`: a transformers causal LM in 16-bit values; `magnitudes`: what input_magnitudes of
    evaluation.activations gives for the sites of its wiring. One row per layer and pair of table 2,
    with columns layer, pair, spearman, pearson, std_ratio (largest over median unit std: section 3
    finds up to 20), n.
    """
    from quantizers.outliers import unit_stds  # reading what is stored needs no torch
    from quantizers.wiring import wiring_of

    sites = wiring_of(model).linear
    by_name = {site.name: site for site in sites}
    rows = []
    for site in sites:
        if site.producer is None or site.kind not in _NAMES or site.name not in magnitudes:
            continue
        std = unit_stds(by_name[site.producer.site].weight)[site.producer.rows].cpu()
        size = magnitudes[site.name].numpy()
        known = np.isfinite(size)
        spread, size = std.numpy()[known], size[known]
        rows.append(
            {
                "layer": _layer(site.name),
                "pair": PAIRS[_NAMES[site.kind]],
                "spearman": float(stats.spearmanr(spread, size).statistic),
                "pearson": float(stats.pearsonr(spread, size).statistic),
                "std_ratio": float(spread.max() / np.median(spread)),
                "n": len(spread),
            }
        )
    return pd.DataFrame(rows, columns=["layer", "pair", "spearman", "pearson", "std_ratio", "n"])


def summary(correlations: pd.DataFrame) -> pd.DataFrame:
    """Table 2's row of one model: the mean over layers of each pair's correlations."""
    grouped = correlations.groupby("pair", sort=False)
    table = grouped[["spearman", "pearson"]].mean()
    return table.assign(std_ratio=grouped["std_ratio"].max(), layers=grouped.size()).reset_index()


def as_measurement(correlations: pd.DataFrame, protocol: Mapping[str, Any]) -> Measurement:
    """What to store of a model: a metric per statistic and pair, its items the layers.

    `value` is the mean over layers, `stderr` its standard error (None with one layer).
    """
    metrics, items = [], {}
    for kind, pair in PAIRS.items():
        rows = correlations[correlations["pair"] == pair]
        for statistic in STATISTICS if len(rows) else ():
            values = rows[statistic].to_numpy(dtype=np.float64)
            error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
            name = _metric_name(statistic, kind)
            metrics.append(Metric(name, float(values.mean()), error, len(values)))
            items[name] = values.astype(np.float32)
    return Measurement(TASK, dict(protocol), tuple(metrics), items)


def outlier_metrics(results: pd.DataFrame) -> pd.DataFrame:
    """What is stored of table 2 in the flat view: its rows with columns pair and statistic."""
    rows = results[(results["task"] == TASK) & np.isfinite(results["value"].astype(float))]
    meaning = {_metric_name(s, kind): (s, pair) for s in STATISTICS for kind, pair in PAIRS.items()}
    rows = rows[rows["metric"].isin(meaning)]
    return rows.assign(
        statistic=[meaning[name][0] for name in rows["metric"]],
        pair=[meaning[name][1] for name in rows["metric"]],
    )


def _metric_name(statistic: str, kind: str) -> str:
    return f"{statistic}_{kind.lower().replace(' ', '_')}"


def _layer(name: str) -> int | None:
    found = re.search(r"\.(\d+)\.", name)
    return int(found[1]) if found else None
