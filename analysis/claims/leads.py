"""A lead of one setting over another, and what it says of a claim, over text and over models."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analysis.claims.claim import FAILS, HOLDS, UNKNOWN, UNRESOLVED, between, resolved
from analysis.findings.duels import Duel
from analysis.noise.means import margin
from analysis.noise.spread import INTERVAL

COLUMNS = ["Lead", "90 % over text", "90 % over models", "Models better"]
RULE = (
    "A lead is the mean over the models that have both sides, in nats or % of accuracy. Two 90 % "
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


def told(cells: Sequence[str], unit: str = "") -> str:
    """A lead and its two intervals in words, from its cells of COLUMNS."""
    shown, over_text, over_models, _ = cells
    text, models = over_text or "unknown", over_models or "unknown"
    return f"{shown}{unit} ({text} over text, {models} over models)"


@dataclass(frozen=True, eq=False)
class Lead:
    """Of the first of a duel by the measure `name`, shown times `unit` with `digits` behind the
    point."""

    found: Duel
    name: str
    unit: float = 1.0
    digits: int = 4

    @property
    def value(self) -> float:
        return self.found.lead

    @property
    def over_text(self) -> tuple[float, float]:
        """Ends of the 90 % interval, NaN where they are unknown."""
        return self.found.low, self.found.high

    @cached_property
    def over_models(self) -> tuple[float, float]:
        """The same with models as what is drawn, each by the mean of its pairs."""
        leads = self.found.pairs.groupby("model")["lead"].mean().to_numpy(dtype=np.float64)
        if len(leads) < 2:
            return np.nan, np.nan
        reach = float(margin(leads.std(ddof=1) / np.sqrt(len(leads)), len(leads) - 1, INTERVAL))
        return float(leads.mean()) - reach, float(leads.mean()) + reach

    def verdict(self, allowed: float = 0.0) -> str:
        """On the claim that it is above -`allowed`, by RULE."""
        text, models = (resolved(*ends, allowed) for ends in (self.over_text, self.over_models))
        if UNKNOWN in (text, models):
            return UNKNOWN if text == UNKNOWN else UNRESOLVED
        return text if text == models and text in (HOLDS, FAILS) else UNRESOLVED

    @property
    def shown(self) -> str:
        """In its unit."""
        return f"{self.unit * self.value:+.{self.digits}f}"

    @property
    def cells(self) -> list[str]:
        """Of COLUMNS."""
        ends = (self._between(ends) for ends in (self.over_text, self.over_models))
        return [self.shown, *ends, self.found.score]

    def _between(self, ends: tuple[float, float]) -> str:
        low, high = (self.unit * end for end in ends)
        return between(low, high, f"+.{self.digits}f")
