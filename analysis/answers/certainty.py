"""How sure an answer is: probabilities of being bit-optimal, and intervals, by bootstrap."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from analysis.answers.answer import Optimum
from analysis.curves.panel import Panel, make_panel, read_errors
from analysis.curves.scaling import Curve, FloatArray
from analysis.noise.bootstrap import SEED, ItemScores, item_noise, kept_models, no_item_scores
from analysis.noise.shrinkage import MOST, Posterior, true_scores
from analysis.noise.spread import Certainty, Spread, interval

N_MODEL_REPLICATES = 200  # each of these rebuilds every curve from other models
_CONTENDER = 4.0  # combined standard errors behind the best at which a setting cannot be it


def with_certainty(
    answers: Sequence[Optimum], curves: Sequence[Curve], scores: ItemScores = no_item_scores
) -> list[Optimum]:
    """`answers` (Optimums of `curves`, one family) with their certainty.

    An answer that is undetermined, or in which an error that matters is not known or rests on two
    windows, stays as it is.
    """
    asked = [answer for answer in answers if answer.determined]
    if not asked:
        return list(answers)
    budgets = np.array([answer.budget_bits for answer in asked])
    panel, points = contenders(curves, budgets)
    value = panel.value + item_noise(panel, scores, points=points)
    number = {curve.setting: i for i, curve in enumerate(panel.curves)}
    first = np.array([number[a.setting] for a in asked if a.setting is not None])
    second = np.array([number[a.runner_up] for a in asked if a.runner_up is not None])
    read = panel.read(budgets, value)
    spreads = _spreads(panel, read, first, second)
    posteriors = _posteriors(panel, budgets, read)
    by_items = [
        _calibrated(panel, spread, winner, posterior)
        for spread, winner, posterior in zip(spreads, first, posteriors, strict=True)
    ]
    few = value[:N_MODEL_REPLICATES]
    over = panel.read(budgets, few, kept_models(panel, len(few)))
    by_models = _spreads(panel, over, first, second)
    lost = np.isfinite(panel.read(budgets)) & np.isnan(read).any(axis=0)
    # Student's draws with one degree of freedom have no variance: two windows tell no probability.
    unknown = np.any(lost, axis=0) | bool((panel.df[np.isfinite(panel.value)] < 2).any())
    known = [a.lead_stderr > 0 and not unknown[j] for j, a in enumerate(asked)]
    sure = iter(zip(by_items, by_models, known, strict=True))
    return [_with(answer, *next(sure)) if answer.determined else answer for answer in answers]


def _calibrated(panel: Panel, spread: Spread, winner: int, posterior: Posterior) -> Spread:
    """Probabilities and the winner's value as they are for what was picked for being the best."""
    probability = posterior.probability(len(panel.curves))
    worth = panel.better * posterior.draws[:, np.flatnonzero(posterior.close == winner)]
    return replace(
        spread,
        probability=by_bits(panel, probability),
        setting_probability=float(probability[winner]),
        value=_interval(_possible(panel, worth.ravel())) if worth.size else spread.value,
    )


def _with(answer: Optimum, items: Spread, models: Spread, known: bool) -> Optimum:
    return replace(answer, certainty=Certainty(items, models)) if known else answer


def contenders(
    curves: Sequence[Curve], budgets: FloatArray, each_precision: bool = False
) -> tuple[Panel, npt.NDArray[np.bool_]]:
    """The curves that can be best at one of the budgets, and their points that matter to it.

    With `each_precision` also the best curve of every precision there, however far behind.
    """
    points = contending(make_panel(curves), budgets, each_precision)
    matters = np.flatnonzero(points.any(axis=1))
    panel = make_panel([curves[int(i)] for i in matters])
    return panel, points[matters][:, : panel.value.shape[1]]


def contending(
    panel: Panel, budgets: FloatArray, each_precision: bool = False
) -> npt.NDArray[np.bool_]:
    """Points that can matter to who is best at one of the budgets: bool [S, M].

    Those that bracket a budget where their curve is the best, or the best of another precision, or
    is within four standard errors of the best (or has no known error) and among the closest. The
    others need no replicates.
    `each_precision` as in contenders.
    """
    low, high, _ = panel.brackets(budgets)
    score = panel.better * panel.read(budgets)
    row = np.arange(len(panel.curves))[:, None]
    error = read_errors(panel, budgets)
    reached = np.isfinite(score)
    score = np.where(reached, score, -np.inf)
    best = score.argmax(axis=0)
    column = np.arange(len(budgets))
    # Where no curve reaches, infinities are subtracted; where no error is known, 0 divides.
    with np.errstate(divide="ignore", invalid="ignore"):
        behind = np.where(reached, score[best, column] - score, np.inf)
        distance = np.nan_to_num(behind / np.hypot(error, error[best, column]), posinf=np.inf)
    rank = np.argsort(np.argsort(distance, axis=0, kind="stable"), axis=0)
    near = reached & (distance <= _CONTENDER) & (rank < MOST)
    other = panel.precisions[:, None] != panel.precisions[best]
    near[best, column] = True
    near[np.where(other, score, -np.inf).argmax(axis=0), column] = True
    near &= reached
    if each_precision:
        for k in np.unique(panel.precisions):
            own = np.flatnonzero(panel.precisions == k)
            near[own[score[own].argmax(axis=0)], column] = True
        near &= reached
    points = np.zeros(panel.value.shape, dtype=bool)
    rows = np.broadcast_to(row, near.shape)
    points[rows[near], low[near]] = True
    points[rows[near], high[near]] = True
    return points


def best_settings(panel: Panel, read: FloatArray) -> npt.NDArray[np.intp]:
    """Which curve is best, [R, m], given values [R, S, m]; -1 where fewer than two have one."""
    score = np.where(np.isnan(read), -np.inf, panel.better * read)
    best = score.argmax(axis=1)
    return np.where(np.isfinite(score).sum(axis=1) >= 2, best, -1)


def _posteriors(panel: Panel, budgets: FloatArray, read: FloatArray) -> list[Posterior]:
    """What the settings are truly worth, one a budget; read: replicates [R, S, m]."""
    score = panel.better * panel.read(budgets)
    noise = np.nan_to_num(panel.better * read - score)
    generator = np.random.default_rng(SEED)
    return [true_scores(score[:, j], noise[:, :, j], generator) for j in range(len(budgets))]


def by_bits(panel: Panel, probability: FloatArray) -> dict[float, float]:
    """Probabilities of settings [S] summed by precision, the most probable first."""
    total: dict[float, float] = {}
    for curve, p in zip(panel.curves, probability.tolist(), strict=True):
        if p > 0:
            bits = curve.setting.bits
            total[bits] = total.get(bits, 0.0) + p
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def _spreads(
    panel: Panel, read: FloatArray, first: npt.NDArray[np.intp], second: npt.NDArray[np.intp]
) -> list[Spread]:
    """One Spread a budget; `first` and `second` [m] are the named winner and runner-up."""
    best = best_settings(panel, read)
    spreads = []
    for j, (winner, runner_up) in enumerate(zip(first, second, strict=True)):
        known = best[:, j] >= 0
        decided = best[known, j]
        share = np.bincount(decided, minlength=len(panel.curves)) / max(1, len(decided))
        value = read[:, winner, j]
        lead = panel.better * (value - read[:, runner_up, j])
        spreads.append(
            Spread(
                probability=by_bits(panel, share),
                setting_probability=float(share[winner]),
                undetermined=float(1 - known.mean()),
                value=_interval(_possible(panel, value)),
                lead=_interval(_possible(panel, lead, least=-1.0)),
            )
        )
    return spreads


def _possible(panel: Panel, replicates: FloatArray, least: float = 0.0) -> FloatArray:
    """Replicates of accuracies, or of their differences (`least` -1), within what these can be."""
    accuracies = panel.curves[0].metric == "zero_shot"
    return np.clip(replicates, least, 1.0) if accuracies else replicates


def _interval(replicates: FloatArray) -> tuple[float, float]:
    finite = replicates[np.isfinite(replicates)]
    if not len(finite):
        return np.nan, np.nan
    return interval(finite)
