"""Intervals of ratios of means, and of averages of them."""

from collections.abc import Sequence

import numpy as np

from analysis.curves.scaling import FloatArray
from analysis.noise.means import margin
from analysis.noise.spread import INTERVAL

Ends = tuple[float, float]


def ratio_interval(
    means: FloatArray, covariance: FloatArray, df: float = np.inf, level: float = INTERVAL
) -> Ends:
    """Both ends of the interval of means[1] / means[0], by Fieller's theorem.

    means: [2]; covariance: theirs, [2, 2]. NaN where means[0] may be 0 by this interval: then no
    ratio is too far off, and there is no interval; or where an error is not known.
    """
    t = float(margin(1.0, df, level))
    # All r at which the mean of after - r * before is within t of its errors of 0.
    products = np.outer(means, means) - t**2 * covariance
    if not products[0, 0] > 0:
        return np.nan, np.nan
    centre = products[0, 1] / products[0, 0]
    reach = np.sqrt(max(centre**2 - products[1, 1] / products[0, 0], 0.0))
    return float(centre - reach), float(centre + reach)


def mean_interval(values: Sequence[float], ends: Sequence[Ends]) -> Ends:
    """Of the mean of independent values, from theirs (MOVER; Zou & Donner, Statistics in Medicine
    2008): distances to either side add as errors do. NaN where one is."""
    distance = np.abs(np.array(ends, dtype=np.float64) - np.array(values)[:, None])
    low, high = np.sqrt((distance**2).sum(axis=0)) / len(values)
    mean = float(np.mean(values))
    return mean - float(low), mean + float(high)
