"""What a setting costs a model: its difference from the same model at 16 bit, paired by items."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.curves.metrics import larger_is_better
from analysis.curves.points import curve_points, degrees_of_freedom
from analysis.curves.settings import is_baseline, settings_of
from analysis.noise.bootstrap import ItemScores, no_item_scores
from analysis.noise.means import is_clear, margin, pooled_df
from analysis.noise.paired import PairedDifference, compare_parts

COLUMNS = ["family", "model", "setting", "bits", "size_bits", "value", "stderr", "difference"]
COLUMNS += ["difference_stderr", "low", "high", "errors", "clear"]


def setting_costs(
    results: pd.DataFrame,
    metric: str,
    task: str | None = None,
    scores: ItemScores = no_item_scores,
    families: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Every experiment beside the same model's at 16 bit: one row each, by family, model, size.

    Columns: family, model, setting, bits, size_bits (total), value, stderr; difference (value minus
    that of 16 bit), difference_stderr, low, high (95%); errors ("paired" over the items both were
    scored on; "independent" from the two standard errors, which overstates them; "unknown": then
    there is no interval); clear: worse or better, for the interval leaves out 0. Each is compared
    by itself. Models without a 16-bit experiment are left out. Raises ValueError as curve_points
    does.
    """
    larger_is_better(metric)
    points = curve_points(results, metric, task)
    if families is not None:
        points = points[points["family"].isin(families)]
    points = points.assign(setting=[setting.label for setting in settings_of(points)])
    rows = []
    for _, model in points.groupby(["family", "model"], sort=False):
        full = model[is_baseline(model)]
        if full.empty:
            continue
        base = full.iloc[0]
        for _, row in model.sort_values("bits_per_param", kind="stable").iterrows():
            if row["experiment_id"] != base["experiment_id"]:
                rows.append([*_place(row), *_difference(row, base, metric, scores)])
    return pd.DataFrame(rows, columns=COLUMNS)


def _place(row: pd.Series) -> list[object]:
    names = ("family", "model", "setting", "bits", "total_bits", "value", "stderr")
    return [row[name] for name in names]


def _difference(row: pd.Series, base: pd.Series, metric: str, scores: ItemScores) -> list[object]:
    """difference, its stderr, low, high, errors, clear."""
    # Items give the error; the values themselves may weigh them by tokens.
    change = float(row["value"]) - float(base["value"])
    paired = _paired(row, base, metric, scores)
    if paired is not None:
        kind, error, df = "paired", paired.stderr, paired.df
    else:
        errors = np.array([row["stderr"], base["stderr"]], dtype=np.float64)
        error = float(np.hypot(*errors))
        degrees = degrees_of_freedom(pd.DataFrame([row, base]))
        kind, df = "independent", float(pooled_df(error**2, errors**2, degrees))
    if not np.isfinite(error + change):
        return [change, np.nan, np.nan, np.nan, "unknown", False]
    reach = float(margin(error, df))
    clear = bool(is_clear(change, error, df))
    return [change, error, change - reach, change + reach, kind, clear]


def _paired(
    row: pd.Series, base: pd.Series, metric: str, scores: ItemScores
) -> PairedDifference | None:
    both = (str(row["experiment_id"]), str(base["experiment_id"]))
    slopes = (1.0, 1.0)
    if metric == "perplexity":  # its items are those of the cross-entropy
        slopes = (float(row["value"]), float(base["value"]))
    try:
        found = compare_parts(scores, both, row["parts"], row["task"], slopes)
    except ValueError:  # no items, or not the same
        return None
    return found if np.isfinite(found.stderr) else None
