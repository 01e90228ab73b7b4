"""How often each precision wins, with intervals, and whether one precision is (almost) always best.

The paper's headline is that 4 bit is "almost universally optimal" (abstract, section 5.1).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.answers.certainty import best_settings, contenders
from analysis.answers.contest import BoolArray, Contest, contests
from analysis.answers.shares import EVERY_FAMILY
from analysis.curves.panel import Panel, alike, precisions_reaching
from analysis.curves.scaling import FloatArray
from analysis.noise.bootstrap import ItemScores, item_noise, kept_models, no_item_scores
from analysis.noise.spread import INTERVAL, interval

ALMOST = 0.9  # share of budgets that counts as "almost universally"
LEAST_COMPARED = 0.5  # of the range of sizes, below which nothing is said of it in general
N_REPLICATES = 200
_CELLS_AT_ONCE = 500_000  # arrays of 4 MB stay in a cache


@dataclass(frozen=True)
class Universality:
    """Whether `bits` is almost universally optimal: at 90% or more of the budgets it is judged at.

    Those are the budgets that it and another precision reach: `coverage`, a share of the budgets
    that any two precisions reach, `low_bits` to `high_bits`; `compared`: the part of the (log)
    range of all experiments' sizes that they are, 0 in a family without any. Of them, `share`: at
    which it wins, with its interval over items (`low`, `high`) and over items and models, which is
    of the replicates in which it can be judged (all but the share `undetermined`; NaN if none);
    `tied_share`: at which it wins or the winner's lead over it could be luck (90% interval);
    `families_led` of `n_families` are those in which it wins most often. All shares are means over
    families. `verdict`: "holds" if even the interval's lower end is at or above 90%, "fails" if
    even the tied share is below, else "open"; "narrow"
    where less than half of the range was compared, whatever was found there; "unknown" where an
    error that matters is not known: then there is no interval and no tied share (NaN).
    """

    bits: float
    coverage: float
    share: float
    low: float
    high: float
    low_models: float
    high_models: float
    undetermined: float
    tied_share: float
    families_led: int
    n_families: int
    verdict: str
    compared: float
    low_bits: float
    high_bits: float


def certain_shares(
    results: pd.DataFrame,
    metric: str = "zero_shot",
    axis: str = "total",
    task: str | None = None,
    scores: ItemScores = no_item_scores,
    bits: float = 4,
) -> tuple[pd.DataFrame, Universality | None]:
    """Share of budgets won by each precision, by family and pooled, and the verdict on `bits`.

    Columns: family, bits, share (of the budgets that have a winner, as in win_shares), low, high
    (90% interval over items, widened to hold the share; NaN where errors are not known),
    low_models, high_models (over items and models, of the replicates in which two precisions meet),
    undetermined (share of those in which none do). The rows of EVERY_FAMILY are means over
    families. No verdict where `bits` meets no other precision.
    """
    found = contests(results, metric, axis, task, scores).values()
    met = [_outcomes(contest, scores, bits) for contest in found if contest.decided.any()]
    groups = [(family.name, [family]) for family in met]
    rows = [
        [name, k, *_numbers(lambda kind: _share(part, kind, k))]  # noqa: B023
        for name, part in ([*groups, (EVERY_FAMILY, met)] if met else [])
        for k in sorted({k for family in part for k in family.every})
    ]
    columns = ["family", "bits", "share", "low", "high", "low_models", "high_models"]
    return pd.DataFrame(rows, columns=[*columns, "undetermined"]), _verdict(met, bits, len(found))


@dataclass(frozen=True)
class _Outcome:
    """Of every replicate and budget, each [R, m]: the precision that wins, whether two or more
    reach the budget, and whether the judged precision is among them. NaN-winners: not known."""

    winner: FloatArray
    decided: BoolArray
    judged: BoolArray


@dataclass(frozen=True)
class _Family:
    """One family's contest, in which `every` precision competes.

    `outcomes`: as measured (R = 1), over items, and over models besides; `known`: whether all
    errors that matter are; `tied` [m]: whether the judged precision wins or cannot be told from
    the winner; budgets: [m], bits; of_range: the part of the range of sizes that one of them is.
    """

    name: str
    every: list[float]
    outcomes: tuple[_Outcome, _Outcome, _Outcome]
    known: bool
    tied: BoolArray
    budgets: FloatArray
    of_range: float


def _outcomes(contest: Contest, scores: ItemScores, bits: float) -> _Family:
    at = contest.decided
    budgets = contest.budgets[at]
    panel, points = contenders(contest.panel.curves, budgets, each_precision=True)
    noise = item_noise(panel, scores, N_REPLICATES, points)
    known = bool(np.isfinite(noise).all())
    value = panel.value + np.nan_to_num(noise)
    keep = kept_models(panel, len(value))
    now = panel.read(budgets)
    most = max(1, _CELLS_AT_ONCE // (len(panel.curves) * len(budgets)))
    over_items, over_models, behind = [], [], []
    for start in range(0, len(value), most):
        read = panel.read(budgets, value[start : start + most])
        over_items.append(_outcome(panel, read, bits))
        behind.append(_behind(panel, now, read, bits))
    parts = alike(keep, most)
    for part in parts:
        read = panel.read(budgets, value[part], keep[part[0]])
        over_models.append(_outcome(panel, read, bits))
    order = np.argsort(np.concatenate(parts))  # of the replicates, as all families have them
    lead = np.nan_to_num(np.concatenate(behind), nan=np.inf)
    return _Family(
        contest.family,
        sorted({curve.setting.bits for curve in contest.panel.curves}),
        (_outcome(panel, now[None], bits), _joined(over_items), _joined(over_models, order)),
        known,
        np.quantile(lead, (1 - INTERVAL) / 2, axis=0, method="lower") <= 0,
        budgets,
        contest.compared / max(1, len(budgets)),
    )


def _outcome(panel: Panel, read: FloatArray, bits: float) -> _Outcome:
    """Who wins, given the values of the curves [R, S, m]."""
    decided = precisions_reaching(panel, read) >= 2
    judged = np.isfinite(read)[:, panel.precisions == bits].any(axis=1)
    return _Outcome(panel.precisions[best_settings(panel, read)], decided, decided & judged)


def _joined(parts: Sequence[_Outcome], order: npt.NDArray[np.intp] | None = None) -> _Outcome:
    columns = ("winner", "decided", "judged")
    joined = [np.concatenate([getattr(part, name) for part in parts]) for name in columns]
    return _Outcome(*(column if order is None else column[order] for column in joined))


def _behind(panel: Panel, now: FloatArray, read: FloatArray, bits: float) -> FloatArray:
    """Lead of the measured winner over the measured best curve of `bits` in replicates, [R, m].

    NaN where no curve of `bits` reaches.
    """
    score = np.where(np.isnan(now), -np.inf, panel.better * now)
    column = np.arange(score.shape[1])
    first = score.argmax(axis=0)
    judged = np.flatnonzero(panel.precisions == bits)
    if not len(judged):
        return np.full(read[:, 0].shape, np.nan)
    best = judged[score[judged].argmax(axis=0)]
    lead = panel.better * (read[:, first, column] - read[:, best, column])
    return np.where(np.isfinite(score[best, column]) & (first == best), 0.0, lead)


def _share(families: Sequence[_Family], kind: int, bits: float, judged: bool = False) -> FloatArray:
    """Share of the budgets that are decided (or judged) which `bits` wins, [R].

    The mean over the families that have such budgets; NaN without any, or where errors are unknown.
    """
    shares = []
    for family in families:
        outcome = family.outcomes[kind]
        mask = outcome.judged if judged else outcome.decided
        total = mask.sum(axis=1)
        won = (mask & (outcome.winner == bits)).sum(axis=1)
        share = np.divide(won, total, out=np.full(len(total), np.nan), where=total > 0)
        shares.append(share if family.known or kind == 0 else np.full_like(share, np.inf))
    table = np.array(shares)
    there = ~np.isnan(table)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, table, 0.0).sum(axis=0) / there.sum(axis=0)
    return mean


def _numbers(
    share: Callable[[int], FloatArray],
) -> tuple[float, float, float, float, float, float]:
    """Share as measured, its interval over items, over models besides, and the part that is NaN."""
    now, items, models = (share(kind) for kind in range(3))
    low, high = _interval(items, float(now[0]))
    low_models, high_models = _interval(models, float(now[0]))
    return float(now[0]), low, high, low_models, high_models, float(np.isnan(models).mean())


def _interval(replicates: FloatArray, share: float) -> tuple[float, float]:
    known = replicates[~np.isnan(replicates)]
    if not len(known) or not np.isfinite(known).all():
        return np.nan, np.nan
    low, high = interval(known)
    # Replicates hold the noise twice, so near ties they spread the wins: never past the share.
    return min(low, share), max(high, share)


def _verdict(met: Sequence[_Family], bits: float, n_families: int) -> Universality | None:
    judged = [family for family in met if family.outcomes[0].judged.any()]
    if not judged:
        return None
    known = all(family.known for family in judged)
    at = [family.outcomes[0].judged[0] for family in judged]
    tied_share = np.mean(
        [family.tied[mask].mean() for family, mask in zip(judged, at, strict=True)]
    )
    led = [
        max(family.every, key=lambda k: _share([family], 0, k, judged=True)[0]) == bits  # noqa: B023
        for family in judged
    ]
    numbers = _numbers(lambda kind: _share(judged, kind, bits, judged=True))
    verdict = "holds" if numbers[1] >= ALMOST else "fails" if tied_share < ALMOST else "open"
    coverage = np.sum([mask.mean() for mask in at]) / len(met)
    pairs = list(zip(judged, at, strict=True))
    compared = sum(family.of_range * mask.sum() for family, mask in pairs) / n_families
    budgets = np.concatenate([family.budgets[mask] for family, mask in pairs])
    verdict = verdict if compared >= LEAST_COMPARED else "narrow"
    return Universality(
        bits,
        float(coverage),
        *numbers,
        float(tied_share) if known else np.nan,
        sum(led),
        len(judged),
        verdict if known else "unknown",
        float(compared),
        float(budgets.min()),
        float(budgets.max()),
    )
