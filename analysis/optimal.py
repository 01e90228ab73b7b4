"""The bit-optimal setting at a memory budget, and how sure we are of it.

Every distinct precision setting of a family, 16 bit included, competes; a setting takes part at a
budget only where its scaling curve has a value, and fewer than two make no comparison.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.answer import Candidate, Optimum
from analysis.bootstrap import ItemScores
from analysis.budget import format_bits
from analysis.certainty import with_certainty
from analysis.curves import SAME_PLACE, Curve, FloatArray, scaling_curves
from analysis.metrics import larger_is_better
from analysis.panel import make_panel


def optimal(
    results: pd.DataFrame,
    budget_bits: float,
    family: str | None = None,
    metric: str = "zero_shot",
    axis: str = "total",
    task: str | None = None,
    scores: ItemScores | None = None,
) -> list[Optimum]:
    """The bit-optimal setting at `budget_bits`, one answer per family (or the one asked for).

    With `scores` (bootstrap.no_item_scores where there are none) answers carry their certainty.
    Raises ValueError for an unknown family, metric, axis or task, or a budget that is not positive.
    """
    if not budget_bits > 0:
        raise ValueError(f"a budget must be positive, got {budget_bits} bits")
    if family is not None:
        check_family(results, family)
        results = results[results["family"] == family]
    fields = competitors(results, metric, axis, task)
    return [
        answers_at(fields[name], [budget_bits], scores)[0]
        if name in fields
        else Optimum(
            name, budget_bits, metric, task or "", axis, 0, 0, f"no {metric} results of {name}"
        )
        for name in ([family] if family is not None else results["family"].unique())
    ]


def answers_at(
    curves: Sequence[Curve], budgets: Sequence[float], scores: ItemScores | None = None
) -> list[Optimum]:
    """The answers among `curves` of one family (not empty, same metric and axis) at `budgets`."""
    answers = [optimum_at(curves, budget) for budget in budgets]
    return answers if scores is None else with_certainty(answers, curves, scores)


def check_family(results: pd.DataFrame, family: str) -> None:
    """ValueError, naming the families there are, if `results` hold nothing of `family`."""
    families = sorted(results["family"].unique())
    if family not in families:
        raise ValueError(f"no results of family {family!r}: there are {', '.join(families)}")


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


def optimum_at(curves: Sequence[Curve], budget_bits: float) -> Optimum:
    """The answer among `curves` of one family (not empty, same metric and axis)."""
    head = curves[0]
    budget = np.array([budget_bits], dtype=np.float64)
    value, stderr = (a[:, 0] for a in read_curves(curves, budget))
    covering = np.flatnonzero(np.isfinite(value))
    answer = Optimum(
        family=head.family,
        budget_bits=float(budget_bits),
        metric=head.metric,
        task=head.task,
        axis=head.axis,
        n_compared=len(covering),
        n_settings=len(curves),
        best_fit=_best_fit(curves, budget_bits),
    )
    if len(covering) < 2:
        return replace(answer, reason=_why_undetermined(curves, covering, budget_bits))
    better = 1.0 if larger_is_better(head.metric) else -1.0
    first, second = covering[np.argsort(-better * value[covering], kind="stable")[:2]]
    winner = curves[first]
    (index,), (weight,) = winner.locate(budget)
    return replace(
        answer,
        setting=winner.setting,
        value=float(value[first]),
        stderr=float(stderr[first]),
        runner_up=curves[second].setting,
        runner_up_value=float(value[second]),
        lead=float(better * (value[first] - value[second])),
        lead_stderr=float(np.hypot(stderr[first], stderr[second])),
        at_or_below=_candidate(winner, index),
        above=_candidate(winner, index + 1) if weight > 0 else None,
    )


def read_curves(curves: Sequence[Curve], budgets: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Value and standard error of every curve at every budget, [curves, budgets], NaN if none.

    As Curve.at reads one curve, for all at once.
    """
    panel = make_panel(curves)
    low, high, weight = panel.brackets(budgets)
    row = np.arange(len(curves))[:, None]
    value = panel.read(budgets)
    stderr = np.hypot((1 - weight) * panel.stderr[row, low], weight * panel.stderr[row, high])
    return value, np.where(np.isfinite(value), stderr, np.nan)


def overlap_range(curves: Sequence[Curve]) -> tuple[float, float] | None:
    """Smallest and largest budget (bits) at which at least two curves have a value."""
    panel = make_panel(curves)
    finite = np.pad(np.isfinite(panel.value), ((0, 0), (1, 1)))
    # A curve has values from the first to the last point of each unbroken run.
    starts = np.sort(panel.log_bits[finite[:, 1:-1] & ~finite[:, :-2]])
    ends = np.sort(panel.log_bits[finite[:, 1:-1] & ~finite[:, 2:]])
    places = np.unique(np.concatenate([starts, ends]))
    begun = np.searchsorted(starts, places + SAME_PLACE, side="right")
    over = np.searchsorted(ends, places - SAME_PLACE, side="left")
    shared = places[begun - over >= 2]
    if not len(shared):
        return None
    sizes = np.concatenate([curve.bits for curve in curves])
    low, high = (sizes[np.abs(np.log(sizes) - end).argmin()] for end in (shared[0], shared[-1]))
    return float(low), float(high)


def _candidate(curve: Curve, index: int | np.intp) -> Candidate:
    return Candidate(
        curve.models[index],
        curve.n_params[index],
        curve.setting,
        float(curve.bits[index]),
        float(curve.value[index]),
        float(curve.stderr[index]),
    )


def _best_fit(curves: Sequence[Curve], budget_bits: float) -> Candidate | None:
    better = 1.0 if larger_is_better(curves[0].metric) else -1.0
    best: tuple[float, float] | None = None
    found: tuple[Curve, np.intp] | None = None
    for curve in curves:
        fits = np.where(np.isfinite(curve.value), better * curve.value, -np.inf)
        fits = fits[: int(np.searchsorted(curve.bits, budget_bits, side="right"))]
        if len(fits) and np.isfinite(fits).any():
            i = fits.argmax()
            score = (float(fits[i]), -float(curve.bits[i]))
            if best is None or score > best:
                best, found = score, (curve, i)
    return _candidate(*found) if found else None


def _why_undetermined(
    curves: Sequence[Curve], covering: npt.NDArray[np.intp], budget_bits: float
) -> str:
    budget = format_bits(budget_bits)
    if len(covering) == 1:
        only = curves[covering[0]].setting.label
        return f"only the {only} curve reaches {budget}: nothing to compare it with"
    finite = [curve.bits[np.isfinite(curve.value)] for curve in curves]
    sizes = np.concatenate(finite)
    if not len(sizes):
        return "every experiment diverged"
    low, high = format_bits(sizes.min()), format_bits(sizes.max())
    if budget_bits < sizes.min():
        return f"{budget} is below the smallest experiment ({low})"
    if budget_bits > sizes.max():
        return f"{budget} is above the largest experiment ({high})"
    return f"no curve has neighbouring experiments on both sides of {budget}"
