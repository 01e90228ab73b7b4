"""How far values of curves can be told apart: the covariance that shared items give them.

Two settings scored on the same items share their luck, which cancels in a difference. A difference
of interpolated curves is a weighted sum of up to four experiments, so its error follows from the
covariance of their values, task by task (means.covariance_of_means).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.curves.panel import Panel
from analysis.curves.scaling import FloatArray
from analysis.noise.bootstrap import ItemScores
from analysis.noise.means import Means, covariance_of_means, pooled_df
from evaluation.tasks.sets import SIZE_WEIGHTED


@dataclass(frozen=True, eq=False)
class Errors:
    """Of m sums, each [m]: standard errors (NaN where not known), their degrees of freedom, and
    whether all that a sum is made of was scored on the same items."""

    stderr: FloatArray
    df: FloatArray
    paired: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Covariance:
    """Of the values at some points of a panel.

    place: int [S, M], the row of a point in `matrix` (float64 [P, P], NaN where an error is not
    known), -1 elsewhere; items: int [P], the same for points scored on the same items, -1 where a
    point has only its standard error, which then counts as independent. parts: the summands of
    `matrix` whose degrees of freedom are few, with these (those of a point alone are in `df`, [P],
    inf where the error counts as known).
    """

    place: npt.NDArray[np.intp]
    matrix: FloatArray
    items: npt.NDArray[np.intp]
    parts: tuple[tuple[FloatArray, float], ...]
    df: FloatArray

    def of_sums(self, points: npt.NDArray[np.intp], weight: FloatArray) -> Errors:
        """Errors of weighted sums of points.

        points: int [k, m], places; weight: [k, m].
        """
        used = weight != 0
        variance = _of_sums(self.matrix, points, weight)
        group = np.where(
            used, self.items[points], self.items[points[used.argmax(axis=0), _each(points)]]
        )
        paired = (group == group[0]).all(axis=0) & (group[0] >= 0)
        with np.errstate(invalid="ignore"):  # 0 times an error that is not known
            alone = np.where(used, weight**2 * np.diag(self.matrix)[points], 0.0)
        summands = [*alone, *(_of_sums(matrix, points, weight) for matrix, _ in self.parts)]
        one = np.ones(points.shape[1])
        df = [*self.df[points], *(degrees * one for _, degrees in self.parts)]
        pooled = pooled_df(variance, np.array(summands), np.array(df))
        return Errors(np.sqrt(np.maximum(variance, 0.0)), pooled, paired)


def _of_sums(matrix: FloatArray, points: npt.NDArray[np.intp], weight: FloatArray) -> FloatArray:
    """Variances of weighted sums of points, [m], by the covariance of all points."""
    used = weight != 0
    with np.errstate(invalid="ignore"):
        terms = weight[:, None] * weight[None] * matrix[points[:, None], points[None]]
    total = np.where(used[:, None] & used[None], terms, 0.0).sum(axis=(0, 1))
    return np.asarray(total, dtype=np.float64)


def _each(points: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    return np.arange(points.shape[1])


def covariance(panel: Panel, points: npt.NDArray[np.bool_], scores: ItemScores) -> Covariance:
    """The covariance of the values of `panel` at `points` (bool [S, M])."""
    place = np.full(panel.value.shape, -1, dtype=np.intp)
    place[points] = np.arange(points.sum())
    curves = panel.curves
    ids = [
        curves[i].experiments[j] if curves[i].experiments else ""
        for i, j in zip(*np.nonzero(points), strict=True)
    ]
    shared = _of_items(curves[0].parts, ids, scores, _by_items(panel))
    slope = np.ones(len(ids))
    if panel.curves[0].metric == "perplexity":  # through its cross-entropy
        slope = panel.value[points]
    own = shared.items < 0
    matrix = np.where(
        own[:, None] | own[None],
        np.diag(panel.stderr[points] ** 2),
        shared.matrix * np.outer(slope, slope),
    )
    parts = tuple((part * np.outer(slope, slope), df) for part, df in shared.parts)
    return Covariance(place, matrix, shared.items, parts, np.where(own, panel.df[points], np.inf))


def means_of(
    parts: Sequence[tuple[str, str, str | None]],
    ids: Sequence[str],
    scores: ItemScores,
    by_items: bool = False,
) -> Means | None:
    """Of experiments over `parts` (over items where `by_items`); None where they were not all
    scored on the same items."""
    shared = _of_items(parts, ids, scores, by_items)
    return Means(shared.matrix, shared.parts) if (shared.items == 0).all() else None


@dataclass(frozen=True, eq=False)
class _Shared:
    """What items say of the means of P points: as in Covariance."""

    matrix: FloatArray
    items: npt.NDArray[np.intp]
    parts: tuple[tuple[FloatArray, float], ...]


def _by_items(panel: Panel) -> bool:
    return panel.curves[0].metric == "zero_shot" and panel.curves[0].task in SIZE_WEIGHTED


def _of_items(
    parts: Sequence[tuple[str, str, str | None]],
    ids: Sequence[str],
    scores: ItemScores,
    by_items: bool,
) -> _Shared:
    known = [id_ for id_ in ids if id_]
    found = [scores(known, *part) for part in parts] if known else []
    counts = [tuple(len(part[i]) for part in found if i in part) for i in ids]
    whole = [len(n) == len(parts) > 0 and min(n) > 1 for n in counts]
    groups = {
        n: k for k, n in enumerate(sorted({n for n, w in zip(counts, whole, strict=True) if w}))
    }
    items = np.array(
        [groups[n] if w else -1 for n, w in zip(counts, whole, strict=True)], dtype=np.intp
    )
    matrix = np.zeros((len(ids), len(ids)))
    parts_of_few: list[tuple[FloatArray, float]] = []
    for n, k in groups.items():
        rows = np.flatnonzero(items == k)
        weights = np.array(n) / sum(n) if by_items else np.full(len(n), 1 / len(n))
        drawn = [np.stack([part[ids[int(i)]] for i in rows]).astype(np.float64) for part in found]
        means = covariance_of_means(drawn, list(weights))
        matrix[np.ix_(rows, rows)] = means.matrix
        for part, df in means.few:
            summand = np.zeros_like(matrix)
            summand[np.ix_(rows, rows)] = part
            parts_of_few.append((summand, df))
    return _Shared(matrix, items, tuple(parts_of_few))
