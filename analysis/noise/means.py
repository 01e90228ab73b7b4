"""Errors of means over items, and when a difference of means is clear.

One rule for every place that says "clear": the 95 % interval of the difference leaves out 0. The
interval is Student's, with the degrees of freedom that the items give: of four windows of text it
is 3.2 standard errors wide on either side, not 2.

Right-or-wrong items need another error where few of them changed, since what was not seen is not
impossible. It is that of Bonett & Price (Statistics in Medicine 2012; recommended by Fagerland,
Lydersen & Laake, ibid. 2014): one more item gained and one more lost. Its intervals leave out 0
hardly ever where the mid-p McNemar test does not reject (at n from 6 to 1,000 in five cases, of p
up to .07), and cover where the plain ones cover .18 to .64.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.curves.scaling import FloatArray

CLEAR = 0.95  # coverage of the interval by which a difference is clear


def margin(
    stderr: npt.ArrayLike, df: npt.ArrayLike = np.inf, level: float = CLEAR
) -> npt.NDArray[np.float64]:
    """Half the width of the interval of a value with this standard error; NaN where it is unknown.

    df: degrees of freedom that the error was estimated with, inf for a known one. Broadcasts.
    """
    from scipy.stats import t  # loads slowly

    error = np.asarray(stderr, dtype=np.float64)
    return np.asarray(t.ppf((1 + level) / 2, np.asarray(df, dtype=np.float64)) * error)


def is_clear(
    difference: npt.ArrayLike, stderr: npt.ArrayLike, df: npt.ArrayLike = np.inf
) -> npt.NDArray[np.bool_]:
    """Whether the interval of a difference leaves out 0; False where the error is unknown or 0."""
    error = np.asarray(stderr, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray((np.abs(difference) > margin(error, df)) & (error > 0))


def are_shares(scores: npt.ArrayLike) -> bool:
    """Whether all items are right or wrong: 1 or 0."""
    return bool(np.isin(scores, (0, 1)).all())


@dataclass(frozen=True, eq=False)
class Means:
    """Covariance of the means of P experiments over items that they share, float64 [P, P].

    few: its summands that are known with few degrees of freedom, with these.
    """

    matrix: FloatArray
    few: tuple[tuple[FloatArray, float], ...]

    def of_sum(self, weight: FloatArray) -> tuple[float, float]:
        """Variance of a weighted sum of the means ([P]), and its degrees of freedom."""
        variance = float(weight @ self.matrix @ weight)
        parts = [float(weight @ part @ weight) for part, _ in self.few]
        return variance, float(pooled_df(variance, parts, [df for _, df in self.few]))


def covariance_of_means(tasks: Sequence[FloatArray], weights: Sequence[float] = (1.0,)) -> Means:
    """Of the means over `tasks`, weighed: each the scores of its items, [P, n], n > 1, in which an
    experiment is a row.

    Right-or-wrong items have Bonett & Price's error in the difference of any two rows (scaled to
    lie about the measured difference, which they shrink by n / (n + 2)); of several such tasks the
    unseen items are of the one in which an item counts most.
    """
    matrix = np.zeros((len(tasks[0]), len(tasks[0])))
    few = []
    for scores, weight in zip(tasks, weights, strict=True):
        n = scores.shape[1]
        if are_shares(scores):
            centred = scores - 0.5  # so that right and wrong count alike
            total = centred.sum(axis=1)
            products = centred @ centred.T - np.outer(total, total) / (n + 2)
            matrix += products * (weight / n) ** 2
        else:
            part = np.atleast_2d(np.cov(scores)) / n * weight**2
            matrix += part
            few.append((part, n - 1.0))
    unseen = largest_item([(are_shares(x), x.shape[1]) for x in tasks], weights)
    return Means(matrix + unseen**2 * np.eye(len(matrix)), tuple(few))


def largest_item(tasks: Sequence[tuple[bool, int]], weights: Sequence[float]) -> float:
    """What one right-or-wrong item moves a weighed mean by at most; 0 where there are none.

    tasks: of each, whether its items are right or wrong, and how many there are.
    """
    moved = [w / n for (shares, n), w in zip(tasks, weights, strict=True) if shares]
    return max(moved, default=0.0)


def pooled_df(
    variance: npt.ArrayLike, parts: npt.ArrayLike, df: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """Degrees of freedom of a variance that is a sum of estimates (Welch & Satterthwaite), [...].

    parts, df: of its estimates, [k, ...], perhaps none; where all of theirs are inf, so are those
    of the sum.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        lost = (np.asarray(parts, np.float64) ** 2 / np.asarray(df, np.float64)).sum(axis=0)
        whole = np.asarray(variance, np.float64) ** 2 / lost
    return np.asarray(np.where(lost > 0, whole, np.inf))
