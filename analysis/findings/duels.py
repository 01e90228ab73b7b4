"""Two settings on the same models: who is ahead by how much, paired over what both scored."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.curves.metrics import larger_is_better
from analysis.curves.remembering import once
from analysis.curves.scaling import FloatArray
from analysis.noise.bootstrap import ItemScores
from analysis.noise.means import are_shares, largest_item, margin, pooled_df
from analysis.noise.spread import INTERVAL
from evaluation.tasks.sets import SIZE_WEIGHTED
from quantizers.factors import FIELDS
from quantizers.setting import SETTING_COLUMNS

MODEL = ("family", "model")
_OPEN = ("exponent_bits", "calibration")  # the most common is taken
_CHOSEN = ("method", "bits", "data_type", "block_size")  # a caller says which
_DEFAULTS = {n: f.default for n, f in FIELDS.items() if n not in (*_CHOSEN, *_OPEN)}


@dataclass(frozen=True, eq=False)
class Duel:
    """`lead`: of the first over the second, the mean over pairs in the metric's unit; positive: the
    first is better. `stderr`: over the items, NaN where errors are unknown; `df`: its degrees of
    freedom. `pairs`: both sides' rows with the suffixes _first and _second, and their lead;
    `diverged`: pairs left out because a side has no finite value.
    """

    lead: float
    stderr: float
    df: float
    pairs: pd.DataFrame
    diverged: int

    @property
    def low(self) -> float:
        return self.lead - float(margin(self.stderr, self.df, INTERVAL))

    @property
    def high(self) -> float:
        return self.lead + float(margin(self.stderr, self.df, INTERVAL))

    @property
    def score(self) -> str:
        """In how many pairs the first is ahead."""
        return f"{int((self.pairs['lead'] > 0).sum())} of {len(self.pairs)}"


def entrants(points: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    """The points of one setting: `wanted` columns as given (None: empty), later factors else at
    their default. Of what is left open, exponent bits and calibration, the most common is taken.
    """
    fits = np.ones(len(points), dtype=bool)
    for column, same in once(_at_default, points).items():
        fits &= column in wanted or same
    for column, value in wanted.items():
        fits &= _equal(points[column], value)
    points = points[fits]
    for column in _OPEN:
        if column not in wanted and points[column].nunique() > 1:
            points = points[points[column] == points[column].mode().iloc[0]]
    return points.drop_duplicates(list(MODEL))


def _at_default(points: pd.DataFrame) -> dict[str, npt.NDArray[np.bool_]]:
    return {column: _equal(points[column], value) for column, value in _DEFAULTS.items()}


def _equal(cells: pd.Series, value: object) -> npt.NDArray[np.bool_]:
    """Which cells are `value`, or empty where it is None: bool [n]."""
    same = cells.isna() if value is None else (cells == value).fillna(False)
    return same.to_numpy(dtype=bool)


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

    Errors are of each item's differences summed over the pairs, so that what models and settings
    have in common cancels, with an allowance for right-or-wrong items as in analysis.noise.means.
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
    error = _error(kept, metric, scores)
    return Duel(float(lead.mean()), *error, kept, int((~finite).sum()))


def _error(pairs: pd.DataFrame, metric: str, scores: ItemScores) -> tuple[float, float]:
    """Standard error of the mean of the differences, and its degrees of freedom."""
    changes: dict[tuple[str, int, bool], FloatArray] = {}
    variances, degrees, unseen = [], [], 0.0
    for pair in pairs.itertuples():
        found = _items(pair, metric, scores)
        if found is None:
            for side in ("first", "second"):
                variances.append(float(getattr(pair, f"stderr_{side}")) ** 2)
                n = float(getattr(pair, f"n_items_{side}"))
                degrees.append(n - 1 if metric != "zero_shot" and n > 1 else np.inf)
            continue
        sizes = {task: len(first) for task, (first, _) in found.items()}
        by_items = pair.task_first in SIZE_WEIGHTED
        for task, (first, second) in found.items():
            n, shares = sizes[task], are_shares((first, second))
            weight = n / sum(sizes.values()) if by_items else 1 / len(sizes)
            place = task, n, shares
            changes[place] = changes.get(place, 0) + weight * (first - second)
            unseen = max(unseen, largest_item([(shares, n)], [weight]))
    for (_, n, shares), change in changes.items():
        variances.append(float(change.var(ddof=1)) / n)
        degrees.append(np.inf if shares else n - 1.0)
    variance = sum(variances) + 2 * unseen**2  # of all pairs together, one item more either way
    df = float(pooled_df(variance, variances, degrees))
    return float(np.sqrt(variance)) / len(pairs), df


def _items(
    pair: object, metric: str, scores: ItemScores
) -> Mapping[str, tuple[FloatArray, FloatArray]] | None:
    """Task -> what each item gives to both values; None where either side lacks them, or they are
    others. A perplexity's are those of its cross-entropy times itself."""
    ids = [pair.experiment_id_first, pair.experiment_id_second]  # type: ignore[attr-defined]
    slopes = (1.0, 1.0)
    if metric == "perplexity":
        slopes = (pair.value_first, pair.value_second)  # type: ignore[attr-defined]
    items = {}
    for part in pair.parts_first:  # type: ignore[attr-defined]
        found = scores(ids, *part)
        if any(id_ not in found for id_ in ids):
            return None
        first, second = (
            slope * found[id_].astype(float) for slope, id_ in zip(slopes, ids, strict=True)
        )
        if len(first) != len(second) or len(first) < 2:
            return None
        if not np.isfinite([first, second]).all():
            return None
        items[part.task] = (first, second)
    return items or None
