"""Which experiments a small sample already rules out, so that only the rest are scored in full.

All settings are sampled by loss on the same few windows and compared pairwise: their noise cancels,
and a small sample tells settings apart. Curves are those of the analysis (linear in log bits
between models), a lead is over the best setting of another precision, every axis of size is asked.

By loss a setting may win at a budget when in full it could be the best, and lead another precision
significantly. Accuracy is too noisy to be sampled: with fifty items of a task even the best setting
of the full protocol is often behind. It follows loss, though not exactly, so what is near the best
by loss may win by it. How near is told by what precision costs there, which is in the same units as
the loss of that model and tokenizer.

Scored in full are the points that bear on such budgets, the best of another precision beside them,
for its distance is the answer, and what a curve would seem to win by being joined over its gaps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import t

AXES = ("total", "quantized", "nominal")
CONFIDENCE = 0.95  # one-sided, of each comparison
SIGNIFICANT = 2.0  # standard errors, as in analysis.answers.contest
MIN_ITEMS = 8  # fewer say too little of their own spread: nothing is dropped
NEAR = 0.5  # times what precision costs; see the simulation in its test
_BUDGETS_AT_ONCE = 256

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Sample:
    """A screened experiment: its place on a family's scaling curves, and its sampled losses.

    size: bits on each of AXES. losses: float [windows], nats a token; NaN or inf where it diverged.
    """

    experiment_id: str
    model: str
    setting: str
    precision: float
    is_baseline: bool
    scope: str
    size: dict[str, float]
    losses: np.ndarray


def may_win_by_loss(samples: Sequence[Sample], share: float) -> set[str]:
    """Ids of one family's experiments that the answer by loss needs, on any axis.

    All have the same windows, which are `share` of those scored in full.
    """
    return _on_every_axis(samples, lambda field: field.may_win(share))


def near_by_loss(samples: Sequence[Sample], share: float) -> set[str]:
    """Ids of one family's experiments that may win by accuracy on any axis; `share` as above."""
    return _on_every_axis(samples, lambda field: field.near(share) | field.may_win(share))


def _on_every_axis(
    samples: Sequence[Sample], contenders: Callable[[_Field], BoolArray]
) -> set[str]:
    """16 bit stays, as what all else is compared with; and all where there is no contest."""
    everything = {sample.experiment_id for sample in samples}
    kept = {sample.experiment_id for sample in samples if sample.is_baseline}
    if len({sample.model for sample in samples}) < 2:
        return everything  # one model: no curve, each setting's cost is the answer
    for axis in AXES:
        rivals = _comparable(samples, axis)
        field = _Field(rivals, axis) if rivals else None
        if field is None or not field.comparable:
            return everything
        kept |= field.needed(contenders(field))
    return kept


def _comparable(samples: Sequence[Sample], axis: str) -> list[Sample]:
    """Those that the analysis compares: on other axes than the total, of the usual scope."""
    samples = [sample for sample in samples if sample.size[axis] > 0]
    if axis == "total" or not samples:
        return samples
    scopes = [scope for _, scope in sorted({(s.setting, s.scope) for s in samples})]
    usual = max(sorted(set(scopes)), key=scopes.count)
    return [sample for sample in samples if sample.scope == usual]


class _Field:
    """The curves of one family over the budgets where precisions meet."""

    def __init__(self, samples: Sequence[Sample], axis: str) -> None:
        by_setting: dict[str, list[Sample]] = {}
        for sample in sorted(samples, key=lambda s: s.size[axis]):
            by_setting.setdefault(sample.setting, []).append(sample)
        self.curves = list(by_setting.values())
        self.sizes = [np.array([s.size[axis] for s in curve]) for curve in self.curves]
        self.precision = np.array([curve[0].precision for curve in self.curves])
        # Every point's size and the middles between: there differences of curves are extreme.
        places = np.unique(np.concatenate(self.sizes))
        self.budgets = np.sort(np.concatenate([places, np.sqrt(places[1:] * places[:-1])]))
        means = [[_mean(sample.losses)] for curve in self.curves for sample in curve]
        self.loss = self._read(np.array(means))[:, :, 0]  # [curves, budgets], inf off a curve
        self.reached = np.isfinite(self.loss)
        meet = [len(set(self.precision[r])) >= 2 for r in self.reached.T]
        self.reached &= np.array(meet)  # elsewhere there is nothing to compare
        windows = len(samples[0].losses)
        self.comparable = windows >= MIN_ITEMS and bool(self.reached.any())
        self.items = np.concatenate([[s.losses for s in curve] for curve in self.curves])

    def may_win(self, share: float) -> BoolArray:
        """Whether a curve could in full be the best, and lead another precision significantly."""
        first, other = self._best()
        rival = np.where(self.precision[:, None] == self.precision[first], other, first)
        ahead = self._may_lead(rival, share, SIGNIFICANT)
        return ahead & self._may_lead(np.broadcast_to(first, rival.shape), share, 0.0)

    def near(self, share: float) -> BoolArray:
        """Whether a curve is near the best, or may be."""
        first, _ = self._best()
        rival = np.broadcast_to(first, self.loss.shape)
        return self._may_lead(rival, share, 0.0, NEAR * self.price())

    def price(self) -> FloatArray:
        """What precision costs at each budget, nats [budgets]: how far the best settings of the
        other precisions are behind, at the median."""
        best = np.stack(
            [
                np.where(self.reached, self.loss, np.inf)[self.precision == k].min(axis=0)
                for k in np.unique(self.precision)
            ]
        )
        best.sort(axis=0)
        with np.errstate(invalid="ignore"):
            behind = np.where(np.isfinite(best[1:]), best[1:] - best[0], np.nan)
        price = np.zeros(len(self.budgets))
        met = np.isfinite(behind).any(axis=0)
        price[met] = np.nanmedian(behind[:, met], axis=0)
        return price

    def _best(self) -> tuple[np.ndarray, np.ndarray]:
        """The best curve at each budget, and the best of another precision."""
        loss = np.where(self.reached, self.loss, np.inf)
        first = loss.argmin(axis=0)
        same = self.precision[:, None] == self.precision[first]
        return first, np.where(same, np.inf, loss).argmin(axis=0)

    def _may_lead(
        self, rival: np.ndarray, share: float, errors: float, less: FloatArray | float = 0.0
    ) -> BoolArray:
        """Whether a curve's lead over its rival could in full exceed `errors` standard errors less
        `less` nats: bool [curves, budgets].

        The sample is part of what is scored in full: only the rest of it is uncertain.
        """
        may = np.zeros_like(self.reached)
        less = np.broadcast_to(less, self.budgets.shape)
        n = self.items.shape[1]
        reach = t.ppf(CONFIDENCE, n - 1) * np.sqrt(1 - share)
        for start in range(0, len(self.budgets), _BUDGETS_AT_ONCE):
            part = slice(start, start + _BUDGETS_AT_ONCE)
            values = self._read(self.items, part)
            place = np.arange(values.shape[1])
            with np.errstate(invalid="ignore"):  # inf - inf and what is off a curve: no lead
                lead = values[rival[:, part], place] - values
                error = lead.std(axis=2, ddof=1) / np.sqrt(n)
                least = errors * np.sqrt(share) * error - less[part]
                may[:, part] = lead.mean(axis=2) + reach * error >= least
        return may & self.reached

    def needed(self, may: BoolArray) -> set[str]:
        """Ids of the points to keep where curves `may` win."""
        first, other = self._best()
        met = self.reached.any(axis=0)
        may = may.copy()
        for best in (first, other):
            may[best[met], np.flatnonzero(met)] = True
        may &= self.reached
        kept = [_bearing(x, self.budgets[m]) for x, m in zip(self.sizes, may, strict=True)]
        for i, points in enumerate(kept):
            self._close_gaps(i, points)
        return {self.curves[i][j].experiment_id for i, points in enumerate(kept) for j in points}

    def _close_gaps(self, i: int, kept: set[int]) -> None:
        """Give points back where the curve, joined over their gap, would seem the best."""
        best = self.loss.min(axis=0)
        while kept:
            left = sorted(kept)
            means = np.array([[_mean(self.curves[i][j].losses)] for j in left])
            joined = _read(self.sizes[i][left], means, self.budgets)[:, 0]
            with np.errstate(invalid="ignore"):
                seems = (joined <= best) & (joined < self.loss[i]) & np.isfinite(best)
            back = _bearing(self.sizes[i], self.budgets[seems]) - kept
            if not back:
                return
            kept |= back

    def _read(self, values: np.ndarray, part: slice = slice(None)) -> FloatArray:
        """`values` [points, n] of all curves, one after the other: [curves, budgets, n]."""
        ends = np.cumsum([len(x) for x in self.sizes])[:-1]
        parts = zip(self.sizes, np.split(values, ends), strict=True)
        return np.stack([_read(x, y, self.budgets[part]) for x, y in parts])


def _mean(losses: np.ndarray) -> float:
    return float(losses.mean()) if np.isfinite(losses).all() else np.inf


def _bearing(sizes: np.ndarray, budgets: np.ndarray) -> set[int]:
    """The points of a curve that its values at `budgets` come from."""
    after = np.searchsorted(sizes, budgets)
    inside = (budgets >= sizes[0]) & (budgets <= sizes[-1])
    after = after[inside]
    on_point = sizes[after] == budgets[inside]
    return set(after.tolist()) | set((after[~on_point] - 1).tolist())


def _read(sizes: np.ndarray, values: np.ndarray, budgets: np.ndarray) -> FloatArray:
    """`values` [points, n] of a curve's points at budgets: [budgets, n].

    inf off the curve, and beside a diverged point.
    """
    x, q = np.log(sizes), np.log(budgets)
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
