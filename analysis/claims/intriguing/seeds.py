"""Differences over seeds: paired by seed, with an interval, and what the design could have seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from analysis.claims.claim import FAILS, HOLDS, UNRESOLVED, jointly
from analysis.claims.intriguing.runs import FloatArray
from analysis.noise.means import margin

LEVEL = 0.9
POWER = 0.8
LEAST_SEEDS = 3
HOW = "How verdicts are made"
OPPOSED = "depends on dose or size"
RULE = (
    f"Intervals are {LEVEL:.0%}: over seeds by Student's t on the differences of runs of one seed, "
    "over items likewise on the windows' differences, averaged over seeds. A comparison holds if "
    "both lie above 0, does not hold if both lie below, and is not resolved otherwise. From fewer "
    f"than {LEAST_SEEDS} seeds there is no verdict; a size that has fewer is listed and does not "
    "take part in a claim's. Power: the true difference that this many "
    f"seeds with this spread would resolve {POWER:.0%} of the time. Nothing is corrected for the "
    "number of comparisons: where a choice makes no difference, each of a claim's comparisons (a "
    f"dose at a size) lies wholly on a given side {(1 - LEVEL) / 2:.0%} of the time or less, so "
    "that a claim is refuted by chance as many times as often as it has comparisons. One that "
    f"holds in one of them and does not in another “{OPPOSED}”."
)


@dataclass(frozen=True, eq=False)
class SeedDifference:
    """What the second of two variants has more than the first, a difference a seed.

    first, second, difference: float64 [seeds]; items: mean over seeds of the differences by item,
    [n], None where not known.
    """

    first: FloatArray
    second: FloatArray
    items: FloatArray | None = None

    @property
    def difference(self) -> FloatArray:
        return self.second - self.first

    @property
    def n(self) -> int:
        return len(self.first)

    @property
    def mean(self) -> float:
        return float(self.difference.mean()) if self.n else np.nan

    @property
    def over_seeds(self) -> tuple[float, float]:
        """NaN from one seed."""
        return t_interval(self.difference)

    @property
    def over_items(self) -> tuple[float, float]:
        """NaN where there are no items."""
        if self.items is None or len(self.items) < 2:
            return np.nan, np.nan
        n = len(self.items)
        half = float(margin(self.items.std(ddof=1) / np.sqrt(n), n - 1, LEVEL))
        return self.mean - half, self.mean + half

    @property
    def power(self) -> float:
        """The difference that would be resolved POWER of the time; NaN from one seed."""
        if self.n < 2:
            return np.nan
        return effect_seen(self.n) * float(self.difference.std(ddof=1))

    @property
    def verdict(self) -> str:
        """By RULE. Items that are not known are left out of it."""
        if self.n < LEAST_SEEDS:
            return no_verdict(self.n)
        ends = [end for end in (*self.over_seeds, *self.over_items) if end == end]
        if all(end > 0 for end in ends):
            return HOLDS
        return FAILS if all(end < 0 for end in ends) else UNRESOLVED


@cache
def effect_seen(n: int) -> float:
    """In standard deviations over seeds: the mean difference whose interval of n seeds lies above
    0 with probability POWER."""
    from statsmodels.stats.power import TTestPower  # takes a second

    solved = TTestPower().solve_power(
        nobs=n, alpha=(1 - LEVEL) / 2, power=POWER, alternative="larger"
    )
    return float(np.squeeze(solved))


def no_verdict(n: int) -> str:
    return f"no verdict from {n} seed{'s' * (n != 1)}"


def over_sizes(found: Sequence[tuple[int, str]]) -> str:
    """One verdict from (seeds, verdict) by size and dose: of those that have seeds enough."""
    enough = [verdict for n, verdict in found if n >= LEAST_SEEDS]
    if not enough:
        return no_verdict(max((n for n, _ in found), default=0))
    if {HOLDS, FAILS} <= set(enough):
        return OPPOSED
    return enough[0] if len(set(enough)) == 1 else jointly(enough)


def t_interval(values: FloatArray) -> tuple[float, float]:
    """LEVEL's interval of a mean, values one a seed; NaN from fewer than two."""
    n = len(values)
    if n < 2:
        return np.nan, np.nan
    half = margin(values.std(ddof=1) / np.sqrt(n), n - 1, LEVEL)
    return float(values.mean() - half), float(values.mean() + half)
