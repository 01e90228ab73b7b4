"""Two settings on the same models: who is ahead by how much, paired over what both scored."""

from collections.abc import Mapping
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import pandas as pd

from analysis.curves.metrics import larger_is_better
from analysis.curves.scaling import FloatArray
from analysis.noise.bootstrap import N_REPLICATES, SEED, ItemScores, resampling_counts
from analysis.noise.spread import interval
from evaluation.tasks.sets import SIZE_WEIGHTED
from quantizers.setting import ADDED_COLUMNS, SETTING_COLUMNS

MODEL = ("family", "model")


@dataclass(frozen=True, eq=False)
class Duel:
    """`lead`: of the first over the second, the mean over pairs in the metric's unit; positive: the
    first is better. `replicates`: what it would have been with other items, [R], NaN where errors
    are unknown. `pairs`: both sides' rows with the suffixes _first and _second, and their lead;
    `diverged`: pairs left out because a side has no finite value.
    """

    lead: float
    replicates: FloatArray
    pairs: pd.DataFrame
    diverged: int

    @property
    def low(self) -> float:
        return interval(self.replicates)[0]

    @property
    def high(self) -> float:
        return interval(self.replicates)[1]

    @property
    def score(self) -> str:
        """In how many pairs the first is ahead."""
        return f"{int((self.pairs['lead'] > 0).sum())} of {len(self.pairs)}"


def entrants(points: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    """The points of one setting: `wanted` columns as given (None: empty), later factors else at
    their default. Of what is left open, exponent bits and calibration, the most common is taken.
    """
    wanted = {"scope": "linear", "outlier_fraction": 0.0, "centered": False} | wanted
    defaults = {name: value for name, value in ADDED_COLUMNS.items() if name != "calibration"}
    fits = np.ones(len(points), dtype=bool)
    for column, value in (defaults | wanted).items():
        same = points[column].isna() if value is None else (points[column] == value).fillna(False)
        fits &= same.to_numpy(dtype=bool)
    points = points[fits]
    for column in ("exponent_bits", "calibration"):
        if column not in wanted and points[column].nunique() > 1:
            points = points[points[column] == points[column].mode().iloc[0]]
    return points.drop_duplicates(list(MODEL))


def twins(points: pd.DataFrame, column: str, first: object, second: object) -> pd.DataFrame:
    """Pairs of points that differ in one column of their setting alone."""
    shared = [*MODEL, *(name for name in SETTING_COLUMNS if name != column)]
    return pair_up(points[points[column] == first], points[points[column] == second], shared)


def pair_up(first: pd.DataFrame, second: pd.DataFrame, on: list[str] | None = None) -> pd.DataFrame:
    """Points of two settings side by side, by default one row a model that has both."""
    on = on or list(MODEL)
    if first.empty or second.empty:
        return pd.DataFrame(columns=on)
    return first.merge(second, on=on, suffixes=("_first", "_second"))


def duel(pairs: pd.DataFrame, metric: str, scores: ItemScores) -> Duel | None:
    """Who is ahead over `pairs` (as pair_up gives them, of curve_points); None without any.

    Items are drawn once for all pairs, so that what models and settings have in common cancels.
    Pairs without item scores have the errors of their two values, as if independent.
    """
    better = 1.0 if larger_is_better(metric) else -1.0
    if pairs.empty:
        return None
    first, second = (pairs[f"value_{side}"].to_numpy(float) for side in ("first", "second"))
    finite = np.isfinite(first) & np.isfinite(second)
    if not finite.any():
        return None
    lead = better * (first - second)[finite]
    kept = pairs[finite].assign(lead=lead).reset_index(drop=True)
    replicates = lead.mean() + better * _noise(kept, scores) / len(kept)
    return Duel(float(lead.mean()), replicates, kept, int((~finite).sum()))


def _noise(pairs: pd.DataFrame, scores: ItemScores) -> FloatArray:
    """What other items add to the sum of differences, [R]."""
    changes: dict[tuple[str, int], FloatArray] = {}
    noise = np.zeros(N_REPLICATES)
    for pair in pairs.itertuples():
        found = _items(pair, scores)
        if found is None:
            error = np.hypot(float(pair.stderr_first), float(pair.stderr_second))
            names = f"{pair.experiment_id_first} {pair.experiment_id_second}".encode()
            noise += error * np.random.default_rng([SEED, crc32(names)]).normal(size=N_REPLICATES)
            continue
        sizes = {task: len(change) for task, change in found.items()}
        by_items = pair.task_first in SIZE_WEIGHTED
        for task, change in found.items():
            n = sizes[task]
            weight = n / sum(sizes.values()) if by_items else 1 / len(sizes)
            centred = weight * (change - change.mean()) / np.sqrt(n * (n - 1))
            changes[task, n] = changes.get((task, n), 0) + centred
    for (task, n), change in changes.items():
        noise += resampling_counts(task, n, N_REPLICATES) @ change
    return noise


def _items(pair: object, scores: ItemScores) -> Mapping[str, FloatArray] | None:
    """Task -> difference of each item; None where either side lacks them, or they are others."""
    ids = [pair.experiment_id_first, pair.experiment_id_second]  # type: ignore[attr-defined]
    changes = {}
    for part in pair.parts_first:  # type: ignore[attr-defined]
        found = scores(ids, *part)
        first, second = (found.get(id_) for id_ in ids)
        if first is None or second is None or len(first) != len(second) or len(first) < 2:
            return None
        change = first.astype(float) - second.astype(float)
        if not np.isfinite(change).all():
            return None
        changes[part.task] = change
    return changes or None
