"""What a bootstrap says about one answer."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

INTERVAL = 0.90  # coverage that intervals aim at


def interval(replicates: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Both ends of the 90% interval of replicates, [R]; NaN where one of them is."""
    low, high = np.quantile(replicates, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Spread:
    """The answer over replicates of one kind.

    `probability`: precision (bits) -> probability that a setting of it is best, the most probable
    first; `setting_probability` that of the named winner itself. `undetermined`: share of
    replicates without two curves to compare; the others are what is counted. `value` and `lead`:
    90% intervals of the named setting's value and of its lead over the named runner-up (positive:
    the named one is better).
    """

    probability: dict[float, float]
    setting_probability: float
    undetermined: float
    value: tuple[float, float]
    lead: tuple[float, float]


@dataclass(frozen=True)
class Certainty:
    """Of one answer.

    `items`: had other items been asked, the same ones of every precision. Its probabilities, and
    its interval of the winner's value, allow for the winner's having been picked as the best of
    noisy values (see shrinkage). `models`: had there been, besides, other sizes of the family; its
    probabilities are plain shares of the replicates.
    """

    items: Spread
    models: Spread
