"""Percent degradation (Ahmadian et al. 2023): the mean over tasks of (after - before) / before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.curves.metrics import Part
from analysis.curves.points import comparable_rows, curve_points
from analysis.curves.scaling import FloatArray
from analysis.curves.settings import is_baseline, settings_of
from analysis.noise.bootstrap import ItemScores, no_item_scores
from analysis.noise.means import covariance_of_means
from analysis.noise.ratios import mean_interval, ratio_interval
from quantizers.recipes import recipe_of

MEAN = "mean"
COLUMNS = ["family", "model", "recipe", "setting", "bits", "task", "before", "after", "percent"]
COLUMNS += ["low", "high", "paired", "reason"]


def degradations(
    results: pd.DataFrame, task: str | None = None, scores: ItemScores = no_item_scores
) -> pd.DataFrame:
    """Every experiment's accuracies beside the same model's at 16 bit, task by task and on average.

    The tasks are those of `task` (a set or a task; None: as curve_points takes them), each by its
    usual metric. Columns: family, model, recipe ("": it has none), setting (label), bits, task
    ("mean": over them), before, after (accuracies; NaN for the mean), percent (negative: worse),
    low, high (90%, over items, by Fieller's theorem, and of the mean by MOVER; NaN: not known),
    paired (both were scored on the same items), reason (why there is no interval: errors are
    unknown, or 16 bit has too few items right to take percent of; else ""). Models without 16 bit
    are left out. Raises ValueError as curve_points does.
    """
    points = curve_points(results, "zero_shot", task)
    known = comparable_rows(results, "zero_shot")
    value = known.set_index(["experiment_id", "task", "metric"])[
        ["value", "stderr", "n_items"]
    ].sort_index()
    settings = settings_of(points)
    labels = [setting.label for setting in settings]
    recipes = [recipe_of(setting) or "" for setting in settings]
    points = points.assign(recipe=recipes, setting=labels, full=is_baseline(points))
    rows: list[list[object]] = []
    for _, model in points.groupby(["family", "model"], sort=False):
        full = model[model["full"]]
        if full.empty:
            continue
        base = full.iloc[0]
        for row in model[~model["full"]].sort_values("bits", kind="stable").to_dict("records"):
            ids = (str(base["experiment_id"]), str(row["experiment_id"]))
            place = [row[name] for name in ("family", "model", "recipe", "setting", "bits")]
            rows += [[*place, *cells] for cells in _tasks(ids, row["parts"], value, scores)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _tasks(
    ids: tuple[str, str], parts: Sequence[Part], value: pd.DataFrame, scores: ItemScores
) -> list[list[object]]:
    """task, before, after, percent, low, high, paired, reason: of each task, then of their mean."""
    rows, changes, ends, all_paired, reasons = [], [], [], True, []
    for part in parts:
        both = value.loc[[(id_, part.task, part.metric) for id_ in ids]]
        means = both["value"].to_numpy(dtype=np.float64)
        found = _covariance(ids, part, both, scores)
        with np.errstate(divide="ignore", invalid="ignore"):
            change = _percent(means[1] / means[0])
        ratio = ratio_interval(means, found.matrix, found.df)
        low, high = (_percent(max(end, 0.0)) for end in ratio)  # no score is below 0
        reason = "" if np.isfinite(low) else _why(part.task, both, found)
        rows.append([part.task, *means, change, low, high, found.paired, reason])
        changes.append(change)
        ends.append((low, high))
        all_paired &= found.paired
        reasons += [reason] if reason else []
    mean = [MEAN, np.nan, np.nan, float(np.mean(changes)), *mean_interval(changes, ends)]
    return [*rows, [*mean, all_paired, "; ".join(reasons)]]


@dataclass(frozen=True, eq=False)
class _Covariance:
    """Of the means before and after, [2, 2] (NaN: not known), its degrees of freedom, and whether
    it is of the same items."""

    matrix: FloatArray
    df: float
    paired: bool


def _covariance(
    ids: tuple[str, str], part: Part, both: pd.DataFrame, scores: ItemScores
) -> _Covariance:
    found: Mapping[str, np.ndarray] = scores(list(ids), *part)
    before, after = (found.get(id_) for id_ in ids)
    if before is not None and after is not None and len(before) == len(after) > 1:
        means = covariance_of_means([np.stack([before, after]).astype(np.float64)])
        df = min((df for _, df in means.few), default=np.inf)
        return _Covariance(means.matrix, df, True)
    variance = both["stderr"].to_numpy(dtype=np.float64) ** 2
    return _Covariance(np.diag(variance), np.inf, False)


def _why(task: str, both: pd.DataFrame, found: _Covariance) -> str:
    """Why a percentage has no interval."""
    if not np.isfinite(found.matrix).all():
        return f"{task}: errors unknown"
    before, n = both["value"].iloc[0], both["n_items"].iloc[0]
    if not np.isfinite(both["value"].to_numpy(dtype=np.float64)).all():
        return f"{task}: diverged"
    right = f"{round(before * n):,} of {n:,} right" if n > 0 else f"{before:.3g}"
    return f"{task}: too few right at 16 bit ({right}) to take percent of"


def _percent(ratio: float) -> float:
    change = 100 * (ratio - 1)
    return float(change) if np.isfinite(change) else np.nan
