"""Serving as it stands in `results`: Ahmadian et al.'s table 6, and FPTQ's table 1, as measured."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.curves.settings import settings_of

CONTEXT, STEP = "context_ms", "self_decoding_ms"
LATENCY, RATE, PEAK = "serving_ms", "serving_tokens_per_second", "serving_peak_bytes"
"""Metrics: of reading the prompts, of a step that adds a token to each; of both together, the
tokens a second and the most memory."""
METRICS = (CONTEXT, STEP, LATENCY, RATE, PEAK)

_TASK = "serving "
_KEY = ["model", "protocol", "task"]


def serving_task(shape: str) -> str:
    """The task of what was measured at a shape, "8x1024x1": batch, tokens in, tokens out."""
    return f"{_TASK}{shape}"


def serving_table(results: pd.DataFrame) -> pd.DataFrame:
    """A row for each model, setting, device and shape, with its ratios to 16 bit.

    Columns: model, setting, shape, n (tokens timed), the METRICS (NaN: not measured), gain (how
    many times as fast as 16 bit of the same protocol, so of the same device), context_gain,
    step_gain, less_memory (share saved); NaN where 16 bit was not measured. Empty without any.
    """
    rows = results[results["metric"].isin(METRICS) & results["task"].str.startswith(_TASK)]
    columns = ["model", "setting", "shape", "n", *METRICS]
    columns += ["gain", "context_gain", "step_gain", "less_memory"]
    if rows.empty:
        return pd.DataFrame(columns=columns)
    known = rows["protocol"] if "protocol" in rows else pd.Series("", rows.index)
    rows = rows.assign(protocol=known.fillna("").astype(str))
    wide = rows.pivot_table("value", ["experiment_id", *_KEY], "metric", aggfunc="min")
    wide = wide.reindex(columns=list(METRICS)).reset_index()
    by_id = rows.drop_duplicates("experiment_id").set_index("experiment_id")
    settings = dict(zip(by_id.index, settings_of(by_id), strict=True))
    full = wide[[settings[i].is_baseline for i in wide["experiment_id"]]].set_index(_KEY)
    base = full.reindex(pd.MultiIndex.from_frame(wide[_KEY])).reset_index(drop=True)
    n_items = rows[rows["metric"] == LATENCY].set_index(["experiment_id", *_KEY])["n_items"]
    n_items = n_items[~n_items.index.duplicated()]
    table = wide.assign(
        setting=[settings[i].label for i in wide["experiment_id"]],
        shape=wide["task"].str.removeprefix(_TASK),
        n=n_items.reindex(pd.MultiIndex.from_frame(wide[["experiment_id", *_KEY]])).to_numpy(),
        gain=base[LATENCY] / wide[LATENCY],
        context_gain=base[CONTEXT] / wide[CONTEXT],
        step_gain=base[STEP] / wide[STEP],
        less_memory=1 - wide[PEAK] / base[PEAK],
    )
    order = [tuple(map(int, shape.split("x"))) for shape in table["shape"]]
    table = table.assign(_order=order).sort_values(["model", "_order", "setting"], kind="stable")
    return table[columns].reset_index(drop=True)


def stage_table(table: pd.DataFrame) -> pd.DataFrame:
    """FPTQ's table 1 from a `serving_table`: which setting speeds up which stage.

    Columns: model, setting, context_gain (geometric mean over shapes of one output token),
    step_gain (over the others), n_context, n_step (shapes). A setting is efficient at a stage
    where its gain is above 1; without shapes the gain is NaN: unknown.
    """
    single = table["shape"].str.endswith("x1")
    rows = []
    for (model, setting), part in table.groupby(["model", "setting"], sort=False):
        context = part.loc[single, "context_gain"].dropna()
        step = part.loc[~single, "step_gain"].dropna()
        rows.append((model, setting, _mean(context), _mean(step), len(context), len(step)))
    columns = ["model", "setting", "context_gain", "step_gain", "n_context", "n_step"]
    return pd.DataFrame(rows, columns=columns)


def _mean(ratios: pd.Series) -> float:
    return float(np.exp(np.log(ratios).mean())) if len(ratios) else float("nan")
