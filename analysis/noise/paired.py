"""Paired differences between two precisions of one model, from the scores of each item.

Two precisions score the same items, so their common luck cancels: a difference is known several
times better than either value. Significance: exact McNemar for one task of right-or-wrong items,
else the bootstrap over items.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.curves.metrics import Part
from analysis.curves.scaling import FloatArray
from analysis.noise.bootstrap import N_REPLICATES, ItemScores, resampling_counts
from evaluation.tasks.sets import SIZE_WEIGHTED, TASK_SETS

_Z = 1.959963984540054  # of a normal 95 % interval


@dataclass(frozen=True)
class PairedDifference:
    """First minus second, in the metric's unit; all NaN but `n_items` where a model diverged.

    `low` and `high` bound the bootstrap's 95 % interval; `test` is "McNemar" or "bootstrap". Where
    no item tells the two apart there is nothing to draw from, but the error is not 0: of right or
    wrong items it is that of one more item gained and one more lost, of others it is NaN.
    """

    difference: float
    stderr: float
    low: float
    high: float
    p_value: float
    test: str
    n_items: int


def paired_difference(
    first: npt.ArrayLike, second: npt.ArrayLike, task: str = ""
) -> PairedDifference:
    """The difference of two means over the same items, each float [n] in the same order.

    `task` names the items: the same name resamples alike in every comparison. Raises ValueError for
    unequal numbers of items and for fewer than two.
    """
    return _over_tasks({task: (np.asarray(first, float), np.asarray(second, float))}, False)


def compare(
    scores: ItemScores, first: str, second: str, task: str, metric: str
) -> PairedDifference:
    """Experiment `first` against `second` on a task, or with the metric "zero_shot" on a task set:
    the mean over its tasks (over items for SIZE_WEIGHTED sets) of the paired differences.

    A corpus's items are its windows, which count alike here. Raises ValueError where either
    experiment lacks scores, or they are of different items.
    """
    parts = [Part(name, its) for name, its in _parts(task, metric).items()]
    return compare_parts(scores, first, second, parts, task if metric == "zero_shot" else "")


def compare_parts(
    scores: ItemScores, first: str, second: str, parts: Sequence[Part], task_set: str = ""
) -> PairedDifference:
    """Experiment `first` against `second` by the mean over `parts` (over items if `task_set` is in
    SIZE_WEIGHTED). Raises ValueError as compare does."""
    pairs = {}
    for part in parts:
        found = scores([first, second], *part)
        for experiment in (first, second):
            if experiment not in found:
                raise ValueError(
                    f"experiment {experiment} has no {part.metric} items of {part.task}"
                )
        pairs[part.task] = (found[first].astype(float), found[second].astype(float))
    return _over_tasks(pairs, task_set in SIZE_WEIGHTED)


def _parts(task: str, metric: str) -> dict[str, str]:
    """Task -> metric of the items that are compared."""
    if metric != "zero_shot":
        return {task: metric}
    if task not in TASK_SETS:
        raise ValueError(f"no task set {task!r}; known: {', '.join(TASK_SETS)}")
    return TASK_SETS[task]


def _over_tasks(
    pairs: dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]], by_items: bool
) -> PairedDifference:
    changes = {task: _change(task, *pair) for task, pair in pairs.items()}
    n_items = sum(len(change) for change in changes.values())
    weights = [len(c) / n_items if by_items else 1 / len(changes) for c in changes.values()]
    shares = all(np.isin(items, (0, 1)).all() for pair in pairs.values() for items in pair)
    binary = shares and len(pairs) == 1
    test = "McNemar" if binary else "bootstrap"
    value = sum(w * c.mean() for w, c in zip(weights, changes.values(), strict=True))
    if not np.isfinite(value):
        return PairedDifference(np.nan, np.nan, np.nan, np.nan, np.nan, test, n_items)
    variances = [c.var(ddof=1) / len(c) for c in changes.values()]
    stderr = np.sqrt(sum(w**2 * v for w, v in zip(weights, variances, strict=True)))
    noise = np.zeros(N_REPLICATES)
    for weight, (task, change) in zip(weights, changes.items(), strict=True):
        noise += weight * _resampled(task, change)
    low, high = value + np.quantile(noise, (0.025, 0.975))
    if not any(np.ptp(change) for change in changes.values()):
        stderr, low, high = _of_constant(value, weights, list(changes.values()), shares)
    if binary:
        (change,) = changes.values()
        p_value = _mcnemar(int((change > 0).sum()), int((change < 0).sum()))
    else:
        p_value = (1 + int((np.abs(noise) >= abs(value)).sum())) / (1 + N_REPLICATES)
    return PairedDifference(
        float(value), float(stderr), float(low), float(high), float(p_value), test, n_items
    )


def _of_constant(
    value: float, weights: Sequence[float], changes: Sequence[FloatArray], shares: bool
) -> tuple[float, float, float]:
    """stderr, low and high where all items of a task change alike."""
    if not shares:
        return np.nan, np.nan, np.nan
    variances = [2 / (len(c) + 2) ** 2 for c in changes]
    stderr = float(np.sqrt(sum(w**2 * v for w, v in zip(weights, variances, strict=True))))
    return stderr, max(-1.0, value - _Z * stderr), min(1.0, value + _Z * stderr)


def _change(
    task: str, first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    if first.shape != second.shape or len(first) < 2:
        raise ValueError(
            f"{task or 'items'}: {len(first)} and {len(second)} items cannot be paired; both "
            "experiments need the same, and at least two"
        )
    with np.errstate(invalid="ignore"):  # inf - inf: diverged
        return first - second


def _resampled(task: str, change: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What resampling the items adds to their mean change, float64 [N_REPLICATES]."""
    n = len(change)
    centred = (change - change.mean()) / np.sqrt(n * (n - 1))
    return resampling_counts(task, n, N_REPLICATES) @ centred


def _mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p-value: of the items that changed, half would have gained by chance."""
    from scipy.stats import binomtest  # most comparisons do without, and it loads slowly

    return 1.0 if gained + lost == 0 else float(binomtest(gained, gained + lost).pvalue)
