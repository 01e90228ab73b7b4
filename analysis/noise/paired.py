"""Paired differences between two precisions of one model, from the scores of each item.

Two precisions score the same items, so their common luck cancels: a difference is known several
times better than either value. Its error and its interval are those of analysis.noise.means: of
right-or-wrong items Bonett & Price's, of windows of text Student's; over several tasks the errors
add, with the degrees of freedom of Welch & Satterthwaite.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.curves.metrics import Part
from analysis.curves.scaling import FloatArray
from analysis.noise.bootstrap import ItemScores
from analysis.noise.means import are_shares, covariance_of_means, margin
from evaluation.tasks.sets import SIZE_WEIGHTED, TASK_SETS

Pair = tuple[FloatArray, FloatArray]
"""Scores of the same items by the first and by the second, float64 [n]."""


@dataclass(frozen=True)
class PairedDifference:
    """First minus second, in the metric's unit; all NaN but `n_items` where a model diverged.

    `low` and `high` bound the 95 % interval, which `stderr` and `df` (degrees of freedom) give;
    `test` is "mid-p McNemar" for one task of right-or-wrong items, else "t". Where all items change
    alike the error of such items is still above 0; of others it is not known: NaN.
    """

    difference: float
    stderr: float
    df: float
    low: float
    high: float
    p_value: float
    test: str
    n_items: int


def paired_difference(
    first: npt.ArrayLike, second: npt.ArrayLike, task: str = ""
) -> PairedDifference:
    """The difference of two means over the same items, each float [n] in the same order.

    `task` names the items in what is raised: ValueError for unequal numbers of items and for fewer
    than two.
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
    return compare_parts(scores, (first, second), parts, task if metric == "zero_shot" else "")


def compare_parts(
    scores: ItemScores,
    experiments: tuple[str, str],
    parts: Sequence[Part],
    task_set: str = "",
    slopes: tuple[float, float] = (1.0, 1.0),
) -> PairedDifference:
    """The first of two experiments against the second by the mean over `parts` (over items if
    `task_set` is in SIZE_WEIGHTED). Raises ValueError as compare does.

    slopes: what each value changes by as the mean of its items does, for values that are a function
    of it: of a perplexity, whose items are those of the cross-entropy, the perplexity itself. The
    difference is then that of the means so weighed, its error that of the values (delta method).
    """
    pairs = {}
    for part in parts:
        found = scores(list(experiments), *part)
        for experiment in experiments:
            if experiment not in found:
                raise ValueError(
                    f"experiment {experiment} has no {part.metric} items of {part.task}"
                )
        first, second = (found[experiment].astype(float) for experiment in experiments)
        pairs[part.task] = (slopes[0] * first, slopes[1] * second)
    return _over_tasks(pairs, task_set in SIZE_WEIGHTED)


def _parts(task: str, metric: str) -> dict[str, str]:
    """Task -> metric of the items that are compared."""
    if metric != "zero_shot":
        return {task: metric}
    if task not in TASK_SETS:
        raise ValueError(f"no task set {task!r}; known: {', '.join(TASK_SETS)}")
    return TASK_SETS[task]


def _over_tasks(pairs: dict[str, Pair], by_items: bool) -> PairedDifference:
    changes = [_change(task, *pair) for task, pair in pairs.items()]
    n_items = sum(len(change) for change in changes)
    binary = len(pairs) == 1 and all(are_shares(pair) for pair in pairs.values())
    test = "mid-p McNemar" if binary else "t"
    weights = [len(c) / n_items if by_items else 1 / len(changes) for c in changes]
    value = float(sum(w * c.mean() for w, c in zip(weights, changes, strict=True)))
    if not np.isfinite(value):
        unknown = np.nan
        return PairedDifference(unknown, unknown, unknown, unknown, unknown, unknown, test, n_items)
    stderr, df = _error(list(pairs.values()), weights)
    reach = float(margin(stderr, df))
    if binary:
        (change,) = changes
        p_value = mcnemar(int((change > 0).sum()), int((change < 0).sum()))
    else:
        p_value = _two_sided(value / stderr, df) if stderr > 0 else np.nan
    ends = (value - reach, value + reach)
    low, high = np.clip(ends, -1.0, 1.0) if binary else ends
    return PairedDifference(value, stderr, df, float(low), float(high), p_value, test, n_items)


def _error(pairs: Sequence[Pair], weights: Sequence[float]) -> tuple[float, float]:
    """Of the weighed mean of differences, with its degrees of freedom; NaN where items that are no
    shares all change alike: how they vary is not known."""
    if any(not are_shares(pair) and not np.ptp(pair[0] - pair[1]) for pair in pairs):
        return np.nan, np.nan
    means = covariance_of_means([np.stack(pair) for pair in pairs], weights)
    variance, df = means.of_sum(np.array([1.0, -1.0]))
    return float(np.sqrt(variance)), df


def _change(task: str, first: FloatArray, second: FloatArray) -> FloatArray:
    if first.shape != second.shape or len(first) < 2:
        raise ValueError(
            f"{task or 'items'}: {len(first)} and {len(second)} items cannot be paired; both "
            "experiments need the same, and at least two"
        )
    with np.errstate(invalid="ignore"):  # inf - inf: diverged
        return first - second


def _two_sided(t: float, df: float) -> float:
    from scipy.stats import t as student  # loads slowly

    return float(2 * student.sf(abs(t), df))


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided mid-p value: of the items that changed, half would have gained by chance.

    The exact test's, less half of the probability of what was seen (Fagerland, Lydersen & Laake,
    BMC Medical Research Methodology 2013, section "The McNemar mid-p test").
    """
    from scipy.stats import binom  # most comparisons do without, and it loads slowly

    changed, fewer = gained + lost, min(gained, lost)
    if gained == lost:
        return 1.0 - float(binom.pmf(fewer, changed, 0.5)) / 2 if changed else 1.0
    return float(2 * binom.cdf(fewer, changed, 0.5) - binom.pmf(fewer, changed, 0.5))
