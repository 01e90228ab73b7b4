"""What an answer to "which model size, at which precision?" consists of."""

from dataclasses import dataclass
from itertools import product

import numpy as np

from analysis.curves.budget import format_bits
from analysis.curves.metrics import larger_is_better
from analysis.noise.means import is_clear
from analysis.noise.spread import Certainty
from quantizers.setting import Setting


@dataclass(frozen=True)
class Candidate:
    """One real experiment: what a person could load."""

    model: str
    n_params: int | None
    setting: Setting
    size_bits: float
    value: float
    stderr: float


@dataclass(frozen=True)
class Optimum:
    """The answer for one family at one budget.

    `setting` is None when undetermined, and `reason` says why. `value` and `runner_up_value` are
    read off the interpolated curves. `runner_up` is the best setting of another precision, `lead`
    how much better the winner is (positive in either direction of the metric); `lead_stderr`, NaN
    where it is not known, is `paired` where both were scored on the same items, else it takes the
    two as independent, which overstates it; `lead_df`: its degrees of freedom. `at_or_below` and
    `above` are the winner's neighbouring models (`above` is None on a point), `best_fit` is the
    best single experiment of any setting that fits in the budget.
    """

    family: str
    budget_bits: float
    metric: str
    task: str
    axis: str
    n_compared: int
    n_settings: int
    reason: str | None = None
    setting: Setting | None = None
    value: float = np.nan
    stderr: float = np.nan
    runner_up: Setting | None = None
    runner_up_value: float = np.nan
    lead: float = np.nan
    lead_stderr: float = np.nan
    lead_df: float = np.inf
    paired: bool = False
    at_or_below: Candidate | None = None
    above: Candidate | None = None
    best_fit: Candidate | None = None
    certainty: Certainty | None = None

    @property
    def determined(self) -> bool:
        return self.setting is not None

    @property
    def lead_in_stderr(self) -> float:
        """The lead in standard errors; NaN when no error was stored."""
        return self.lead / self.lead_stderr if self.lead_stderr > 0 else np.nan

    @property
    def significant(self) -> bool:
        """Whether the lead's 95 % interval leaves out 0. False when the error is unknown."""
        return bool(is_clear(self.lead, self.lead_stderr, self.lead_df))

    @property
    def beaten_by_smaller(self) -> bool:
        """Whether a single experiment that fits beats the interpolated winner.

        It happens where a better setting has no model large enough to reach the budget.
        """
        if self.best_fit is None or not self.determined:
            return False
        gain = self.best_fit.value - self.value
        return bool((gain if larger_is_better(self.metric) else -gain) > 0)

    def as_row(self) -> dict[str, object]:
        """Flat and JSON-able, for tables; models by name, settings by label and bits."""
        fit = self.best_fit
        return {
            "family": self.family,
            "budget_bits": self.budget_bits,
            "budget": format_bits(self.budget_bits),
            "metric": self.metric,
            "task": self.task,
            "axis": self.axis,
            "determined": self.determined,
            "reason": self.reason,
            "bits": self.setting.bits if self.setting else None,
            "setting": self.setting.label if self.setting else None,
            "value": self.value,
            "stderr": self.stderr,
            "runner_up": self.runner_up.label if self.runner_up else None,
            "runner_up_value": self.runner_up_value,
            "lead": self.lead,
            "lead_stderr": self.lead_stderr,
            "lead_in_stderr": self.lead_in_stderr,
            "lead_paired": self.paired,
            "significant": self.significant,
            "model_at_or_below": self.at_or_below.model if self.at_or_below else None,
            "model_above": self.above.model if self.above else None,
            "best_fit_model": fit.model if fit else None,
            "best_fit_setting": fit.setting.label if fit else None,
            "best_fit_bits": fit.size_bits if fit else np.nan,
            "best_fit_value": fit.value if fit else np.nan,
            "best_fit_stderr": fit.stderr if fit else np.nan,
            "beaten_by_smaller": self.beaten_by_smaller,
            "n_compared": self.n_compared,
            "n_settings": self.n_settings,
            **_certainty_row(self.certainty),
        }


def _certainty_row(certainty: Certainty | None) -> dict[str, object]:
    """Columns of `certainty`; probabilities as {bits: probability}, intervals by their ends."""
    row: dict[str, object] = {}
    for name in ("items", "models"):
        spread = getattr(certainty, name, None)
        row |= {
            f"probability_{name}": spread and spread.probability,
            f"setting_probability_{name}": spread.setting_probability if spread else np.nan,
            f"undetermined_{name}": spread.undetermined if spread else np.nan,
        }
        for column, end in product(("value", "lead"), (0, 1)):
            key = f"{column}_{('low', 'high')[end]}_{name}"
            row[key] = getattr(spread, column)[end] if spread else np.nan
    return row
