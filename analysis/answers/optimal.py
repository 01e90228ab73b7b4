"""The bit-optimal setting at a memory budget, and how sure we are of it.

Every distinct precision setting of a family, 16 bit included, competes; a setting takes part at a
budget only where its scaling curve has a value, and one precision alone makes no comparison.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.answers.answer import Candidate, Optimum
from analysis.answers.certainty import with_certainty
from analysis.answers.contest import AT_CHANCE, DROPPED, Contest, competitors, contest
from analysis.curves.budget import format_bits
from analysis.curves.metrics import larger_is_better
from analysis.curves.scaling import Curve
from analysis.noise.bootstrap import ItemScores, no_item_scores


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
    asked = contest(curves, np.asarray(budgets, dtype=np.float64), scores or no_item_scores)
    answers = [_answer(asked, j) for j in range(len(asked.budgets))]
    return answers if scores is None else with_certainty(answers, curves, scores)


def check_family(results: pd.DataFrame, family: str) -> None:
    """ValueError, naming the families there are, if `results` hold nothing of `family`."""
    families = sorted(results["family"].unique())
    if family not in families:
        raise ValueError(f"no results of family {family!r}: there are {', '.join(families)}")


def _answer(asked: Contest, j: int) -> Optimum:
    """What a contest says at its j-th budget."""
    curves, head = asked.panel.curves, asked.panel.curves[0]
    budget = asked.budgets[j]
    covering = np.flatnonzero(np.isfinite(asked.value[:, j]))
    answer = Optimum(
        family=head.family,
        budget_bits=float(budget),
        metric=head.metric,
        task=head.task,
        axis=head.axis,
        n_compared=len(covering),
        n_settings=len(curves),
        best_fit=_best_fit(curves, budget),
    )
    if asked.screened:
        return replace(answer, reason=DROPPED)
    if asked.at_chance[j]:
        return replace(answer, reason=f"at chance: {AT_CHANCE}")
    if not asked.met[j]:
        return replace(answer, reason=_why_undetermined(curves, covering, budget))
    winner, rival = curves[asked.winner[j]], curves[asked.rival[j]]
    (index,), (weight,) = winner.locate(asked.budgets[j : j + 1])
    _, stderr = winner.at(asked.budgets[j : j + 1])
    return replace(
        answer,
        setting=winner.setting,
        value=float(asked.value[asked.winner[j], j]),
        stderr=float(stderr[0]),
        runner_up=rival.setting,
        runner_up_value=float(asked.value[asked.rival[j], j]),
        lead=float(asked.lead[j]),
        lead_stderr=float(asked.error.stderr[j]),
        lead_df=float(asked.error.df[j]),
        paired=bool(asked.error.paired[j]),
        at_or_below=_candidate(winner, index),
        above=_candidate(winner, index + 1) if weight > 0 else None,
    )


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
    if len(covering):
        only = curves[covering[0]].setting.bits
        return f"only {only:g}-bit curves reach {budget}: no other precision to compare with"
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
