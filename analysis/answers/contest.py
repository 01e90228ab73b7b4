"""Who is best at each budget, by how much, and how sure that is: read by every answer.

All precision settings of a family compete, 16 bit included, each where its curve has a value. A
precision wins against other precisions only, so the lead is over the best setting of another one,
and its error is paired: both were scored on the same items.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.curves.metrics import chance_level
from analysis.curves.panel import Panel, make_panel, precisions_reaching, read_errors, run_ends
from analysis.curves.remembering import once
from analysis.curves.scaling import Curve, FloatArray, scaling_curves
from analysis.noise.bootstrap import ItemScores, no_item_scores
from analysis.noise.errors import Errors, covariance
from analysis.noise.means import is_clear, margin

N_BUDGETS = 200
DROPPED = "dropped by screening: on this axis, settings that were not scored could lead"
NEAR_CHANCE = 0.02  # above guessing, where no error is known
ONE_SIZE = 0.01  # sizes that differ by less, in log(bits), are one: its budgets are no range
AT_CHANCE = "no setting can be told from guessing"

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Contest:
    """One family by one metric, task and axis, at `budgets` (bits, [m]).

    value: [S, m], of every curve of `panel`, NaN where it does not reach. met: two or more
    precisions reach, so there is a contest; at_chance: there is, but none can be told from guessing
    (its 95 % interval holds it). winner, rival: the best curve, and the best of another precision;
    -1 without a contest. lead: of the winner over the rival, positive; error: its own, NaN where it
    is not known, paired by the items both were scored on, else as if independent, which overstates
    it. complete: every setting of the family reaches.
    """

    panel: Panel
    budgets: FloatArray
    value: FloatArray
    met: BoolArray
    at_chance: BoolArray
    winner: IntArray
    rival: IntArray
    lead: FloatArray
    error: Errors
    complete: BoolArray

    @property
    def family(self) -> str:
        return self.panel.curves[0].family

    @property
    def screened(self) -> bool:
        """Whether what was dropped by screening could lead: who wins cannot be said then."""
        return any(curve.screened for curve in self.panel.curves)

    @property
    def decided(self) -> BoolArray:
        """Whether there is a winner: a contest of all that could lead, and not at chance."""
        return self.met & ~self.at_chance & (not self.screened)

    @property
    def clear(self) -> BoolArray:
        """Whether the lead's 95 % interval leaves out 0; False where the error is not known.

        It is said of each budget by itself, and of the best there against the best of another
        precision, both picked for looking best: see wording.LEADS.
        """
        return self.decided & is_clear(self.lead, self.error.stderr, self.error.df)

    @property
    def compared(self) -> float:
        """The part of the (log) range of all the family's sizes that has a winner."""
        if not self.decided.any():
            return 0.0
        sizes = self.panel.log_bits[np.isfinite(self.panel.value)]
        at = np.log(self.budgets[[0, -1]])
        return float(np.ptp(at) / np.ptp(sizes) * self.decided.mean())

    @property
    def why_undecided(self) -> str:
        """In words, for a contest that no budget decides; "" for others."""
        if self.decided.any():
            return ""
        if self.screened:
            return DROPPED
        if self.at_chance.any():
            return f"all of it is at chance: {AT_CHANCE}"
        if len(self.panel.models) < 2:
            return f"one model ({self.panel.models[0]}): a curve needs two sizes"
        if len(np.unique(self.panel.precisions)) < 2:
            return "one precision: nothing to compare it with"
        return "the sizes of two precisions overlap nowhere, or at one size alone"


def contests(
    results: pd.DataFrame,
    metric: str = "zero_shot",
    axis: str = "total",
    task: str | None = None,
    scores: ItemScores = no_item_scores,
) -> dict[str, Contest]:
    """The contest of every family over the budgets that two or more of its precisions reach.

    Budgets are N_BUDGETS, evenly spaced in log(bits); none where there is one model, or where the
    precisions meet at no more than one size. Raises ValueError as scaling_curves does.
    """
    return dict(once(_contests, results, metric, axis, task, scores))


def _contests(
    results: pd.DataFrame, metric: str, axis: str, task: str | None, scores: ItemScores
) -> dict[str, Contest]:
    fields = competitors(results, metric, axis, task)
    return {
        family: contest(curves, shared_budgets(curves), scores) for family, curves in fields.items()
    }


def competitors(
    results: pd.DataFrame, metric: str, axis: str, task: str | None = None
) -> dict[str, list[Curve]]:
    """Curves that may be compared, by family.

    On the total axis every setting is. The other axes count different things for different
    scopes, so there only the family's most common scope takes part.
    """
    fields: dict[str, list[Curve]] = {}
    for curve in scaling_curves(results, metric, axis, task):
        fields.setdefault(curve.family, []).append(curve)
    if axis == "total":
        return fields
    for family, curves in fields.items():
        scopes = [curve.setting.scope for curve in curves]
        usual = max(sorted(set(scopes)), key=scopes.count)
        fields[family] = [curve for curve in curves if curve.setting.scope == usual]
    return fields


def contest(
    curves: Sequence[Curve], budgets: FloatArray, scores: ItemScores = no_item_scores
) -> Contest:
    """The contest among `curves` of one family (not empty, same metric and axis) at `budgets`."""
    panel = make_panel(curves)
    budgets = np.asarray(budgets, dtype=np.float64)
    value = panel.read(budgets)
    score = np.where(np.isfinite(value), panel.better * value, -np.inf)
    column = np.arange(len(budgets))
    winner = score.argmax(axis=0)
    other = panel.precisions[:, None] != panel.precisions[winner]
    rivals = np.where(other, score, -np.inf)
    rival = rivals.argmax(axis=0)
    met = np.isfinite(rivals[rival, column]) if len(curves) > 1 else np.zeros(len(budgets), bool)
    with np.errstate(invalid="ignore"):
        lead = np.where(met, score[winner, column] - rivals[rival, column], np.nan)
    error = lead_error(panel, budgets, winner, rival, met, scores)
    return Contest(
        panel=panel,
        budgets=budgets,
        value=value,
        met=met,
        at_chance=met & _at_chance(panel, budgets, value[winner, column], winner),
        winner=np.where(met, winner, -1),
        rival=np.where(met, rival, -1),
        lead=lead,
        error=error,
        complete=np.asarray(np.isfinite(value).all(axis=0)),
    )


def lead_error(
    panel: Panel,
    budgets: FloatArray,
    winner: IntArray,
    rival: IntArray,
    met: BoolArray,
    scores: ItemScores,
) -> Errors:
    """Of each lead of the curves `winner` over `rival` (int [m]) where `met`: [m]."""
    error = Errors(
        np.full(len(budgets), np.nan), np.full(len(budgets), np.inf), np.zeros(len(budgets), bool)
    )
    if not met.any():
        return error
    low, high, weight = panel.brackets(budgets[met])
    column = np.arange(met.sum())
    rows, columns, weights = [], [], []
    for curve, sign in ((winner[met], 1.0), (rival[met], -1.0)):
        after = weight[curve, column]
        rows += [curve, curve]
        columns += [low[curve, column], high[curve, column]]
        weights += [sign * (1 - after), sign * after]
    row, place = np.stack(rows), np.stack(columns)
    points = np.zeros(panel.value.shape, dtype=bool)
    points[row, place] = True
    known = covariance(panel, points, scores)
    found = known.of_sums(known.place[row, place], np.stack(weights))
    error.stderr[met], error.df[met], error.paired[met] = found.stderr, found.df, found.paired
    return error


def _at_chance(panel: Panel, budgets: FloatArray, best: FloatArray, winner: IntArray) -> BoolArray:
    """Whether even the best value may be guessing, [m]; never for a loss."""
    head = panel.curves[0]
    if head.metric != "zero_shot":
        return np.zeros(len(budgets), dtype=bool)
    error = read_errors(panel, budgets)[winner, np.arange(len(budgets))]
    reach = np.where(np.isfinite(error), margin(error), NEAR_CHANCE)
    with np.errstate(invalid="ignore"):
        return best <= chance_level(head.task) + reach


def shared_budgets(curves: Sequence[Curve]) -> FloatArray:
    """N_BUDGETS evenly spaced in log(bits) where two or more precisions have values.

    Empty with one model, and where precisions meet at one size (ONE_SIZE) at most.
    """
    panel = make_panel(curves)
    places = run_ends(panel)
    if len(panel.models) < 2 or len(places) < 2:
        return np.empty(0)
    met = precisions_reaching(panel, panel.read(places)) >= 2
    if met.sum() < 2:
        return np.empty(0)
    low, high = places[met][[0, -1]]
    if np.log(high / low) <= ONE_SIZE:
        return np.empty(0)
    return np.geomspace(low, high, N_BUDGETS)
