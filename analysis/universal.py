"""How often each precision wins, with intervals, and whether one precision is (almost) always best.

The paper's headline is that 4 bit is "almost universally optimal" (abstract, section 5.1).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.bootstrap import ItemScores, item_noise, kept_models, no_item_scores
from analysis.certainty import best_settings, contenders
from analysis.curves import SAME_PLACE, Curve, FloatArray
from analysis.optimal import competitors, overlap_range
from analysis.panel import Panel
from analysis.shares import EVERY_FAMILY
from analysis.spread import INTERVAL

ALMOST = 0.9  # share of budgets that counts as "almost universally"
_N_BUDGETS = 60
_N_REPLICATES = 200
_CELLS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Universality:
    """Whether `bits` is almost universally optimal: at 90% or more of the budgets it is judged at.

    Those are the budgets that it and another precision reach: `coverage`, a share of the budgets
    that any two precisions reach. Of them, `share`: at which it wins, with its interval over items
    (`low`, `high`) and over items and models, which is of the replicates in which it can be judged
    (all but the share `undetermined`; NaN if none); `tied_share`: at which it wins or the winner's
    lead over it could be luck (90% interval); `families_led` of `n_families` are those in which it
    wins most often. `verdict`: "holds" if even the interval's lower end is at or above 90%, "fails"
    if even the tied share is below, else "open".
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


def certain_shares(
    results: pd.DataFrame,
    metric: str = "zero_shot",
    axis: str = "total",
    task: str | None = None,
    scores: ItemScores = no_item_scores,
    bits: int = 4,
) -> tuple[pd.DataFrame, Universality | None]:
    """Share of budgets won by each precision, by family and pooled, and the verdict on `bits`.

    Columns: family, bits, share (of log-spaced budgets that two or more precisions reach), low,
    high (90% interval over items, widened to hold the share), low_models, high_models (over items
    and models, of the replicates in which two precisions meet), undetermined (share of those in
    which none do). The rows of EVERY_FAMILY weigh every budget alike, so a family by the range over
    which its precisions meet. No verdict where `bits` meets no other precision.
    """
    fields = competitors(results, metric, axis, task)
    contests = [_contest(family, curves, scores, bits) for family, curves in fields.items()]
    met = [contest for contest in contests if contest and contest.of[0].decided.any()]
    groups = [(contest.family, [contest]) for contest in met]
    rows = [
        [family, k, *_numbers(lambda kind: _share(part, kind, k))]  # noqa: B023
        for family, part in ([*groups, (EVERY_FAMILY, met)] if met else [])
        for k in sorted({k for contest in part for k in contest.every})
    ]
    columns = ["family", "bits", "share", "low", "high", "low_models", "high_models"]
    return pd.DataFrame(rows, columns=[*columns, "undetermined"]), _verdict(met, bits)


@dataclass(frozen=True)
class _Outcome:
    """Of every replicate and budget, each [R, m]: precision that wins, whether two or more reach
    the budget, and whether the judged precision is among them."""

    winner: npt.NDArray[np.int64]
    decided: npt.NDArray[np.bool_]
    judged: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Contest:
    """One family's budgets, `width` apart in log(bits), at which `every` precision competes.

    `of`: outcomes as measured (R = 1), over items, and over models besides; `tied` [m]: whether
    the judged precision wins or cannot be told from the winner.
    """

    family: str
    every: list[float]
    width: float
    of: tuple[_Outcome, _Outcome, _Outcome]
    tied: npt.NDArray[np.bool_]


def _contest(family: str, curves: list[Curve], scores: ItemScores, bits: int) -> _Contest | None:
    span = overlap_range(curves)
    if span is None:
        return None
    budgets = np.geomspace(*span, _N_BUDGETS)
    panel, points = contenders(curves, budgets, each_precision=True)
    value = panel.value + item_noise(panel, scores, _N_REPLICATES, points)
    keep = kept_models(panel, len(value))
    now = panel.read(budgets)
    chunk = max(1, _CELLS_AT_ONCE // (panel.value.size * len(budgets)))
    over_items, over_models, behind = [], [], []
    for start in range(0, len(value), chunk):
        part = slice(start, start + chunk)
        read = panel.read(budgets, value[part])
        over_items.append(_outcome(panel, read, bits))
        over_models.append(_outcome(panel, panel.read(budgets, value[part], keep[part]), bits))
        behind.append(_behind(panel, now, read, bits))
    lead = np.nan_to_num(np.concatenate(behind), nan=np.inf)
    return _Contest(
        family,
        sorted({curve.setting.bits for curve in curves}),
        max(SAME_PLACE, float(np.log(span[1] / span[0])) / _N_BUDGETS),
        (_outcome(panel, now[None], bits), _joined(over_items), _joined(over_models)),
        np.quantile(lead, (1 - INTERVAL) / 2, axis=0, method="lower") <= 0,
    )


def _outcome(panel: Panel, read: FloatArray, bits: int) -> _Outcome:
    """Who wins, given the values of the curves [R, S, m]."""
    reached = np.isfinite(read)
    precisions = np.unique(panel.precisions)
    by_precision = [reached[:, panel.precisions == k].any(axis=1) for k in precisions]
    decided = np.sum(by_precision, axis=0) >= 2
    own = reached[:, panel.precisions == bits].any(axis=1)
    return _Outcome(panel.precisions[best_settings(panel, read)], decided, decided & own)


def _joined(parts: Sequence[_Outcome]) -> _Outcome:
    columns = ("winner", "decided", "judged")
    return _Outcome(*(np.concatenate([getattr(p, name) for p in parts]) for name in columns))


def _behind(panel: Panel, now: FloatArray, read: FloatArray, bits: int) -> FloatArray:
    """Lead of the measured winner over the measured best curve of `bits` in replicates, [R, m].

    NaN where no curve of `bits` reaches.
    """
    score = np.where(np.isnan(now), -np.inf, panel.better * now)
    column = np.arange(score.shape[1])
    first = score.argmax(axis=0)
    of_bits = np.flatnonzero(panel.precisions == bits)
    if not len(of_bits):
        return np.full(read[:, 0].shape, np.nan)
    own = of_bits[score[of_bits].argmax(axis=0)]
    lead = panel.better * (read[:, first, column] - read[:, own, column])
    return np.where(np.isfinite(score[own, column]) & (first == own), 0.0, lead)


def _share(
    contests: Sequence[_Contest], kind: int, bits: float, judged: bool = False
) -> FloatArray:
    """Share of the budgets that are decided (or judged) which `bits` wins, [R]; NaN without any."""
    won = total = 0.0
    for contest in contests:
        of = contest.of[kind]
        mask = of.judged if judged else of.decided
        won = won + contest.width * (mask & (of.winner == bits)).sum(axis=1)
        total = total + contest.width * mask.sum(axis=1)
    return np.divide(won, total, out=np.full(np.shape(total), np.nan), where=total > 0)


def _numbers(
    share: Callable[[int], FloatArray],
) -> tuple[float, float, float, float, float, float]:
    """Share as measured, its interval over items, over models besides, and the part that is NaN."""
    now, items, models = (share(kind) for kind in range(3))
    low, high = _interval(items, float(now[0]))
    low_models, high_models = _interval(models, float(now[0]))
    return float(now[0]), low, high, low_models, high_models, float(np.isnan(models).mean())


def _interval(replicates: FloatArray, share: float) -> tuple[float, float]:
    known = replicates[np.isfinite(replicates)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.quantile(known, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    # Replicates hold the noise twice, so near ties they spread the wins: never past the share.
    return min(float(low), share), max(float(high), share)


def _verdict(contests: Sequence[_Contest], bits: int) -> Universality | None:
    judged = [contest for contest in contests if contest.of[0].judged.any()]
    if not judged:
        return None
    at = [contest.of[0].judged[0] for contest in judged]
    width = np.array([contest.width for contest in judged])
    weight = width * [mask.sum() for mask in at]
    decided = sum(contest.width * contest.of[0].decided.sum() for contest in contests)
    tied = width @ [(c.tied & mask).sum() for c, mask in zip(judged, at, strict=True)]
    tied_share = float(tied / weight.sum())
    led = [
        max(contest.every, key=lambda k: _share([contest], 0, k, judged=True)[0]) == bits  # noqa: B023
        for contest in judged
    ]
    numbers = _numbers(lambda kind: _share(contests, kind, bits, judged=True))
    verdict = "holds" if numbers[1] >= ALMOST else "fails" if tied_share < ALMOST else "open"
    coverage = float(weight.sum() / decided)
    return Universality(bits, coverage, *numbers, tied_share, sum(led), len(judged), verdict)
