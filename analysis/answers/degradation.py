"""Percent degradation (Ahmadian et al. 2023): the mean over tasks of (after - before) / before."""

from collections.abc import Mapping, Sequence
from zlib import crc32

import numpy as np
import pandas as pd

from analysis.curves.metrics import Part
from analysis.curves.points import comparable_rows, curve_points
from analysis.curves.scaling import FloatArray
from analysis.curves.settings import is_baseline, settings_of
from analysis.noise.bootstrap import (
    N_REPLICATES,
    SEED,
    ItemScores,
    no_item_scores,
    resampling_counts,
)
from analysis.noise.spread import interval

MEAN = "mean"
COLUMNS = ["family", "model", "setting", "bits", "task", "before", "after", "percent"]
COLUMNS += ["low", "high", "paired"]


def degradations(
    results: pd.DataFrame, task: str | None = None, scores: ItemScores = no_item_scores
) -> pd.DataFrame:
    """Every experiment's accuracies beside the same model's at 16 bit, task by task and on average.

    The tasks are those of `task` (a set or a task; None: as curve_points takes them), each by its
    usual metric. Columns: family, model, setting (label), bits, task ("mean": over them), before,
    after (accuracies; NaN for the mean), percent (negative: worse), low, high (90%, over items;
    NaN: not known), paired (both were scored on the same items, resampled together). NaN where
    16 bit scores 0. Models without 16 bit are left out. Raises ValueError as curve_points does.
    """
    points = curve_points(results, "zero_shot", task)
    known = comparable_rows(results, "zero_shot")
    value = known.set_index(["experiment_id", "task", "metric"])[["value", "stderr"]]
    points = points.assign(setting=[s.label for s in settings_of(points)], full=is_baseline(points))
    rows: list[list[object]] = []
    for _, model in points.groupby(["family", "model"], sort=False):
        full = model[model["full"]]
        if full.empty:
            continue
        base = full.iloc[0]
        for row in model[~model["full"]].sort_values("bits", kind="stable").to_dict("records"):
            ids = (str(base["experiment_id"]), str(row["experiment_id"]))
            place = [row["family"], row["model"], row["setting"], row["bits"]]
            rows += [[*place, *cells] for cells in _tasks(ids, row["parts"], value, scores)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _tasks(
    ids: tuple[str, str], parts: Sequence[Part], value: pd.DataFrame, scores: ItemScores
) -> list[list[object]]:
    """task, before, after, percent, low, high, paired: of each task, then of their mean."""
    rows, changes, noisy, all_paired = [], [], [], True
    for part in parts:
        before, after = (value.loc[(id_, part.task, part.metric)] for id_ in ids)
        replicates, paired = _replicates(ids, part, (before, after), scores)
        change = float(_percent(before["value"], after["value"]))
        rows.append(
            [part.task, before["value"], after["value"], change, *interval(replicates), paired]
        )
        changes.append(change)
        noisy.append(replicates)
        all_paired &= paired
    mean = [
        MEAN,
        np.nan,
        np.nan,
        float(np.mean(changes)),
        *interval(np.mean(noisy, axis=0)),
        all_paired,
    ]
    return [*rows, mean]


def _replicates(
    ids: tuple[str, str], part: Part, values: tuple[pd.Series, pd.Series], scores: ItemScores
) -> tuple[FloatArray, bool]:
    """The percent change with other items, [R], and whether it is of the same items."""
    found: Mapping[str, np.ndarray] = scores(list(ids), *part)
    before, after = (found.get(id_) for id_ in ids)
    if before is not None and after is not None and len(before) == len(after) > 1:
        counts = resampling_counts(part.task, len(before), N_REPLICATES)
        drawn = counts @ np.stack([before, after], axis=1).astype(np.float32) / len(before)
        return _percent(drawn[:, 0], drawn[:, 1]), True
    rng = np.random.default_rng([SEED, crc32(f"{ids} {part}".encode())])
    first, second = (v["value"] + v["stderr"] * rng.normal(size=N_REPLICATES) for v in values)
    return _percent(first, second), False


def _percent(before: FloatArray | float, after: FloatArray | float) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        change = 100 * (np.asarray(after, float) - before) / np.asarray(before, float)
    return np.where(np.isfinite(change), change, np.nan)
