"""Which experiments a small sample already rules out, so that only the rest are scored in full.

The same few items are compared pairwise: their noise cancels, and a small sample tells settings
apart. A setting may win at a budget when its scaling curve (linear in log total bits between
models) could lead the best of the others there by what would be significant in full. Its points
that bear on such a budget are scored. Where fewer than two curves would remain a runner-up stays,
and a curve that would seem to win by joining over the points it lost gets them back.

Loss tells settings apart by far the best, so it goes first. Accuracy follows it more closely than
its own noise, so only what is near the best by loss may win by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

CONFIDENCE = 0.95  # one-sided, of each comparison by loss
SIGNIFICANT = 2.0  # standard errors, as in analysis.answer
MIN_ITEMS = 8  # fewer say too little of their own spread: nothing is dropped
NEAR = 0.05  # nats a token: on the embedded models no setting this far behind wins by accuracy
_BUDGETS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Sample:
    """A screened experiment: its place on a family's scaling curves, and its sampled scores.

    bits: total bits. losses: float [windows], nats a token; NaN or inf where the model diverged.
    errors: float [items], 1 - accuracy, mean over tasks; None where no task was sampled.
    """

    experiment_id: str
    setting: str
    bits: float
    losses: np.ndarray
    errors: np.ndarray | None = None


def may_win_by_loss(samples: Sequence[Sample], share: float) -> set[str]:
    """Ids of one family's experiments that the answer by loss needs.

    All have the same windows, which are `share` of those scored in full.
    """
    field = _Field(samples)
    if not field.comparable:
        return field.everything
    may = field.may_lead("losses", field.reached, share, CONFIDENCE)
    return field.needed(may, field.loss)


def near_by_loss(samples: Sequence[Sample], share: float) -> set[str]:
    """Ids of one family's experiments that may win by accuracy; `share` of the windows as above."""
    field = _Field(samples)
    if not field.comparable:
        return field.everything
    return field.bearing(field.near(share))


def may_win_by_accuracy(
    samples: Sequence[Sample], share_of_windows: float, share: float
) -> set[str]:
    """Ids of one family's experiments that the answer by accuracy needs.

    All that are near by loss have the same items, which are `share` of those scored in full.
    No confidence is asked for: differences between good settings are below the noise of the full
    protocol, let alone of a sample. What truly leads nobody is significantly ahead in full once
    in 40 comparisons, and what leads significantly in full mostly leads in the sample.
    """
    field = _Field(samples)
    n_items = {len(s.errors) for s in samples if s.errors is not None}
    if not field.comparable or not n_items or min(n_items) < MIN_ITEMS:
        return field.everything
    error = np.where(field.near(share_of_windows), field.mean("errors"), np.inf)
    near = np.isfinite(error)
    may = field.may_lead("errors", near, share, 0.5)
    may |= near & (near.sum(axis=0) == 1)  # the others are too far behind by loss
    return field.needed(may, np.where(np.isfinite(error), error, 1 + field.loss))


class _Field:
    """The curves of one family over the budgets where they are compared."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        by_setting: dict[str, list[Sample]] = {}
        for sample in sorted(samples, key=lambda s: s.bits):
            by_setting.setdefault(sample.setting, []).append(sample)
        self.curves = list(by_setting.values())
        self.everything = {sample.experiment_id for sample in samples}
        # Every point's size and the middles between: there differences of curves are extreme.
        places = np.unique([sample.bits for sample in samples])
        self.budgets = np.sort(np.concatenate([places, np.sqrt(places[1:] * places[:-1])]))
        self.loss = self.mean("losses")  # [curves, budgets], inf where a curve has no value
        self.loss[:, np.isfinite(self.loss).sum(axis=0) < 2] = np.inf  # nothing to compare
        self.reached = np.isfinite(self.loss)
        self.comparable = len(samples[0].losses) >= MIN_ITEMS and bool(self.reached.any())

    def mean(self, name: str) -> np.ndarray:
        values = [[_mean(getattr(sample, name)) for sample in curve] for curve in self.curves]
        points = zip(self.curves, values, strict=True)
        return np.stack([_read(c, np.array(v)[:, None], self.budgets)[:, 0] for c, v in points])

    def may_lead(
        self, name: str, where: np.ndarray, share: float, confidence: float, less: float = 0.0
    ) -> np.ndarray:
        """Whether a curve could lead the best of the others significantly, or by `less` than that.

        Bool as `where` (the curves that compete at each budget). The sample is part of what is
        scored in full: only the rest of it is uncertain.
        """
        may = np.zeros_like(where)
        mean = np.where(where, self.mean(name), np.inf)
        for start in range(0, len(self.budgets), _BUDGETS_AT_ONCE):
            part = slice(start, start + _BUDGETS_AT_ONCE)
            values = np.stack([self._items(c, name, self.budgets[part]) for c in self.curves])
            place = np.arange(values.shape[1])
            first, second = np.argsort(mean[:, part], axis=0, kind="stable")[:2]
            rival = np.where(np.arange(len(values))[:, None] == first, second, first)
            n = values.shape[2]
            with np.errstate(invalid="ignore"):  # inf - inf and what is off a curve: NaN, no lead
                lead = values[rival, place] - values
                error = lead.std(axis=2, ddof=1) / np.sqrt(n)
                reach = t.ppf(confidence, n - 1) * np.sqrt(1 - share) * error
                needed = SIGNIFICANT * np.sqrt(share) * error - less
                may[:, part] = lead.mean(axis=2) + reach > needed
        return may & where

    def near(self, share: float) -> np.ndarray:
        """Whether a curve is at most NEAR behind the best by loss, or may be: bool."""
        return self.may_lead("losses", self.reached, share, CONFIDENCE, NEAR)

    def _items(self, curve: list[Sample], name: str, budgets: np.ndarray) -> np.ndarray:
        scores = [getattr(sample, name) for sample in curve]
        n = next(len(x) for c in self.curves for s in c if (x := getattr(s, name)) is not None)
        missing = np.full(n, np.nan)
        return _read(curve, np.stack([missing if x is None else x for x in scores]), budgets)

    def bearing(self, where: np.ndarray) -> set[str]:
        """Ids of the points that the curves' values come from: bool [curves, budgets]."""
        kept = [_bearing(c, self.budgets[w]) for c, w in zip(self.curves, where, strict=True)]
        return self._ids(kept)

    def needed(self, may: np.ndarray, rank: np.ndarray) -> set[str]:
        """The points to keep where curves `may` win; `rank` [curves, budgets]: the less the better,
        inf where a curve has no value."""
        kept = [_bearing(c, self.budgets[m]) for c, m in zip(self.curves, may, strict=True)]
        self._keep_runners_up(kept, rank)
        for curve, loss, points in zip(self.curves, self.loss, kept, strict=True):
            self._close_gaps(curve, loss, points)
        return self._ids(kept)

    def _keep_runners_up(self, kept: list[set[int]], rank: np.ndarray) -> None:
        """An answer needs two curves: the best of the others, unless two are there."""
        low, high = np.array([_span(c, k) for c, k in zip(self.curves, kept, strict=True)]).T
        for b in np.flatnonzero(self.reached.any(axis=0)):
            budget = self.budgets[b]
            for i in np.argsort(rank[:, b], kind="stable"):
                there = (low <= budget) & (budget <= high)
                if there.sum() >= 2 or not np.isfinite(rank[i, b]):
                    break
                if not there[i]:
                    kept[i] |= _bearing(self.curves[i], self.budgets[b : b + 1])
                    low[i], high[i] = _span(self.curves[i], kept[i])

    def _close_gaps(self, curve: list[Sample], loss: np.ndarray, kept: set[int]) -> None:
        """Give points back where the curve, joined over their gap, would seem the best."""
        best = self.loss.min(axis=0)
        while kept:
            left = [curve[j] for j in sorted(kept)]
            joined = _read(left, np.array([[_mean(s.losses)] for s in left]), self.budgets)[:, 0]
            with np.errstate(invalid="ignore"):
                seems = (joined <= best) & (joined < loss) & np.isfinite(best)
            back = _bearing(curve, self.budgets[seems]) - kept
            if not back:
                return
            kept |= back

    def _ids(self, kept: Sequence[set[int]]) -> set[str]:
        return {c[j].experiment_id for c, js in zip(self.curves, kept, strict=True) for j in js}


def _mean(scores: np.ndarray | None) -> float:
    if scores is None:
        return np.nan
    return float(scores.mean()) if np.isfinite(scores).all() else np.inf


def _span(curve: list[Sample], kept: set[int]) -> tuple[float, float]:
    sizes = [curve[j].bits for j in kept]
    return (min(sizes), max(sizes)) if sizes else (np.inf, -np.inf)


def _bearing(curve: list[Sample], budgets: np.ndarray) -> set[int]:
    """The points of a curve that its values at `budgets` come from."""
    x = np.array([sample.bits for sample in curve])
    after = np.searchsorted(x, budgets)
    inside = (budgets >= x[0]) & (budgets <= x[-1])
    after = after[inside]
    on_point = x[after] == budgets[inside]
    return set(after.tolist()) | set((after[~on_point] - 1).tolist())


def _read(curve: list[Sample], values: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """`values` [points, n] of a curve's points at budgets: [budgets, n].

    inf off the curve, beside a diverged point, and beside a point without a value.
    """
    x, q = np.log([sample.bits for sample in curve]), np.log(budgets)
    y = values.astype(float)
    y[~np.isfinite(y).all(axis=1)] = np.inf
    after = np.clip(np.searchsorted(x, q), 0, len(x) - 1)
    before = np.where(x[after] <= q, after, np.maximum(after - 1, 0))
    width = np.where(after > before, x[after] - x[before], 1.0)
    weight = np.where(after > before, (q - x[before]) / width, 0.0)[:, None]
    with np.errstate(invalid="ignore"):  # 0 * inf
        value = np.where(weight > 0, (1 - weight) * y[before] + weight * y[after], y[before])
    value[(q < x[0] - 1e-12) | (q > x[-1] + 1e-12)] = np.inf
    return value
