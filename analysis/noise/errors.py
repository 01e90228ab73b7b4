"""How far values of curves can be told apart: the covariance that shared items give them.

Two settings scored on the same items share their luck, which cancels in a difference. A difference
of interpolated curves is a weighted sum of up to four experiments, so its error follows from the
covariance of their values, task by task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.curves.panel import Panel
from analysis.curves.scaling import FloatArray
from analysis.noise.bootstrap import ItemScores
from evaluation.tasks.sets import SIZE_WEIGHTED


@dataclass(frozen=True, eq=False)
class Covariance:
    """Of the values at some points of a panel.

    place: int [S, M], the row of a point in `matrix` (float64 [P, P], NaN where an error is not
    known), -1 elsewhere; items: int [P], the same for points scored on the same items, -1 where a
    point has only its standard error, which then counts as independent.
    """

    place: npt.NDArray[np.intp]
    matrix: FloatArray
    items: npt.NDArray[np.intp]

    def of_sums(
        self, points: npt.NDArray[np.intp], weight: FloatArray
    ) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """Standard error of weighted sums of points, [m], and whether all share their items.

        points: int [k, m], places; weight: [k, m].
        """
        between = self.matrix[points[:, None], points[None]]  # [k, k, m]
        used = weight != 0
        with np.errstate(invalid="ignore"):
            terms = weight[:, None] * weight[None] * between
        variance = np.where(used[:, None] & used[None], terms, 0.0).sum(axis=(0, 1))
        group = np.where(
            used, self.items[points], self.items[points[used.argmax(axis=0), _each(points)]]
        )
        paired = (group == group[0]).all(axis=0) & (group[0] >= 0)
        return np.sqrt(np.maximum(variance, 0.0)), paired


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
    matrix = np.diag(panel.stderr[points] ** 2)
    shared, items = _of_items(curves[0].parts, ids, scores, _by_items(panel))
    if panel.curves[0].metric == "perplexity":  # through its cross-entropy
        shared = shared * np.outer(panel.value[points], panel.value[points])
    own = items < 0
    matrix = np.where(own[:, None] | own[None], matrix, shared)
    return Covariance(place, matrix, items)


def _by_items(panel: Panel) -> bool:
    return panel.curves[0].metric == "zero_shot" and panel.curves[0].task in SIZE_WEIGHTED


def _of_items(
    parts: Sequence[tuple[str, str, str | None]],
    ids: Sequence[str],
    scores: ItemScores,
    by_items: bool,
) -> tuple[FloatArray, npt.NDArray[np.intp]]:
    """Covariance of the means over items, [P, P], and which points share their items, [P]."""
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
    for n, k in groups.items():
        rows = np.flatnonzero(items == k)
        members = [ids[int(i)] for i in rows]
        weight = np.array(n) / sum(n) if by_items else np.full(len(n), 1 / len(n))
        for part, size, w in zip(found, n, weight, strict=True):
            matrix[np.ix_(rows, rows)] += w**2 * _of_means(part, members) / size
    return matrix, items


def _of_means(part: Mapping[str, np.ndarray], ids: Sequence[str]) -> FloatArray:
    """Covariance of single items' scores between experiments, [P, P]."""
    scores = np.stack([part[id_] for id_ in ids]).astype(np.float64)
    return np.atleast_2d(np.cov(scores))
