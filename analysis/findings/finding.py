"""What one metric says over all families: read by cards, titles, tables and the command line."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.answers.contest import Contest, contests
from analysis.answers.shares import EVERY_FAMILY, SHARES, win_shares
from analysis.noise.bootstrap import ItemScores, no_item_scores


@dataclass(frozen=True, eq=False)
class Finding:
    """Who wins how often, by one metric on one axis.

    tasks: what the metric was taken on; shares: as win_shares gives them, by setting, empty where
    nothing is decided; undecided: family -> why no budget has a winner; at_chance: family -> share
    of its budgets at which no setting can be told from guessing, where there are any; compared: the
    part of the (log) range of all sizes that has a winner, the mean over families; paired,
    unknown: shares of the budgets with a winner whose lead has a paired error, and none at all
    (means over families; NaN where nothing is decided); errorless: families none of whose leads has
    an error.
    """

    metric: str
    axis: str
    tasks: tuple[str, ...]
    shares: pd.DataFrame
    undecided: dict[str, str]
    at_chance: dict[str, float]
    compared: float
    paired: float
    unknown: float
    errorless: tuple[str, ...]

    @property
    def by_precision(self) -> pd.DataFrame:
        """Shares over all families, a row a precision, the most frequent winner first."""
        return by_precision(self.shares[self.shares["family"] == EVERY_FAMILY])

    def of_family(self, family: str) -> pd.DataFrame:
        """One family's rows of `shares`, by setting."""
        return self.shares[self.shares["family"] == family]


def find(
    results: pd.DataFrame,
    metric: str = "zero_shot",
    axis: str = "total",
    task: str | None = None,
    scores: ItemScores = no_item_scores,
) -> Finding:
    """What `results` say by one metric. Raises ValueError as scaling_curves does."""
    found = contests(results, metric, axis, task, scores)
    decided = [contest for contest in found.values() if contest.decided.any()]
    chance = {family: _at_chance(contest) for family, contest in found.items()}
    return Finding(
        metric=metric,
        axis=axis,
        tasks=tuple(dict.fromkeys(c.panel.curves[0].task for c in found.values())),
        shares=win_shares(results, metric, axis, task, scores),
        undecided={name: why for name, c in found.items() if (why := c.why_undecided)},
        at_chance={family: share for family, share in chance.items() if share > 0},
        compared=float(np.mean([c.compared for c in found.values()])) if found else 0.0,
        paired=_mean([c.error.paired[c.decided] for c in decided]),
        unknown=_mean([np.isnan(c.error.stderr[c.decided]) for c in decided]),
        errorless=tuple(c.family for c in decided if np.isnan(c.error.stderr[c.decided]).all()),
    )


def by_precision(shares: pd.DataFrame) -> pd.DataFrame:
    """Shares of settings summed by precision, the largest first."""
    summed = shares.groupby("bits")[list(SHARES)].sum(min_count=1)
    return summed.sort_values("share", ascending=False, kind="stable")


def _at_chance(contest: Contest) -> float:
    return float(contest.at_chance[contest.met].mean()) if contest.met.any() else 0.0


def _mean(flags: list[np.ndarray]) -> float:
    return float(np.mean([part.mean() for part in flags])) if flags else float("nan")
