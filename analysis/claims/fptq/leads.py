"""A recipe's lead over another, and what it says of a claim, over text and over models."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from analysis.claims.claim import FAILS, HOLDS, UNKNOWN, UNRESOLVED, between, resolved
from analysis.claims.fptq.recipes import Measure
from analysis.claims.paper import Study
from analysis.findings.duels import Duel, duel, pair_up
from analysis.noise.means import margin
from analysis.noise.spread import INTERVAL

COLUMNS = ["By", "Lead", "90 % over text", "90 % over models", "Models better"]
RULE = (
    "A lead is the mean over the models that have both recipes, in % of accuracy or nats. Two 90 % "
    "intervals are shown of it: over text (other items, these models) and over models (Student's t "
    "over the models' leads, n - 1 degrees of freedom, models taken as if drawn independently of "
    "each other; of one model there is none). A claim on a lead holds only if both intervals lie "
    "on the claimed side, does not hold if both lie on the other, and is not resolved otherwise."
)
MULTIPLICITY = (
    "Each claim is judged by itself, at 5 % a side, and uncorrected for how many there are. Where "
    "it needs each of several comparisons, all of them must hold, which takes no correction; but "
    "it fails by any one of them, which of k comparisons would happen by chance up to k times as "
    "often."
)


@dataclass(frozen=True, eq=False)
class Lead:
    """Of one recipe over another by a measure: `over_text` and `over_models` are the ends of 90 %
    intervals, NaN where they are unknown."""

    measure: Measure
    found: Duel

    @property
    def value(self) -> float:
        return self.found.lead

    @property
    def over_text(self) -> tuple[float, float]:
        return self.found.low, self.found.high

    @cached_property
    def over_models(self) -> tuple[float, float]:
        leads = self.found.pairs["lead"].to_numpy(dtype=np.float64)
        if len(leads) < 2:
            return np.nan, np.nan
        reach = float(margin(leads.std(ddof=1) / np.sqrt(len(leads)), len(leads) - 1, INTERVAL))
        return self.value - reach, self.value + reach

    def verdict(self, allowed: float = 0.0) -> str:
        """On the claim that it is above -`allowed`, by RULE."""
        text, models = (resolved(*ends, allowed) for ends in (self.over_text, self.over_models))
        if UNKNOWN in (text, models):
            return UNKNOWN if text == UNKNOWN else UNRESOLVED
        return text if text == models and text in (HOLDS, FAILS) else UNRESOLVED

    @property
    def shown(self) -> str:
        """In the measure's unit."""
        return f"{self.measure.unit * self.value:{self._spec}}"

    @property
    def cells(self) -> list[str]:
        """Of COLUMNS."""
        ends = (self._between(ends) for ends in (self.over_text, self.over_models))
        return [self.measure.name, self.shown, *ends, self.found.score]

    @property
    def _spec(self) -> str:
        return "+.2f" if self.measure.metric == "zero_shot" else "+.4f"

    def _between(self, ends: tuple[float, float]) -> str:
        low, high = (self.measure.unit * end for end in ends)
        return between(low, high, self._spec)


def versus(
    measure: Measure, study: Study, first: pd.DataFrame, second: pd.DataFrame
) -> Lead | None:
    """Who is ahead on the models that both have."""
    found = duel(pair_up(first, second, ["model"]), measure.metric, study.scores)
    return None if found is None else Lead(measure, found)
