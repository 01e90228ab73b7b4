"""Which experiments a small sample already rules out, so that only the rest are scored in full.

Cross-entropy on the same few windows is compared pairwise: the noise of the text cancels, and a
small sample tells settings apart. A setting's scaling curve (loss against log total bits, linear
between models) contends at a budget unless, with CONFIDENCE, it is less than MARGIN better than the
sample's best there, and a point of it is scored in full when the curve contends at a budget that
the point bears on. Where one curve alone contends, a second stays: an answer needs a runner-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

CONFIDENCE = 0.95  # one-sided, of each comparison
MIN_WINDOWS = 8  # fewer say too little of their own spread: nothing is dropped
MARGIN = 0.01  # nats a token: what is no better than this may lose against an equal


@dataclass(frozen=True, eq=False)
class Sample:
    """A screened experiment: its place on a family's scaling curves, and its sampled loss.

    bits: total bits. losses: float [windows], nats a token; NaN or inf where the model diverged.
    """

    experiment_id: str
    setting: str
    bits: float
    losses: np.ndarray


def dominated(samples: Sequence[Sample]) -> set[str]:
    """Ids of the experiments of one family that need no full score; all have the same windows."""
    if not samples or len(samples[0].losses) < MIN_WINDOWS:
        return set()
    curves = _curves(samples)
    budgets = _budgets(samples)
    losses = np.stack([_read(curve, budgets) for curve in curves])  # [curves, budgets, windows]
    mean = np.where(np.isnan(losses[:, :, 0]), np.inf, losses.mean(axis=2))
    comparable = (~np.isnan(losses[:, :, 0])).sum(axis=0) >= 2
    kept: list[set[int]] = [set() for _ in curves]
    contends = comparable & _may_win(losses, mean)
    for i, curve in enumerate(curves):
        kept[i] = _bearing(curve, budgets[contends[i]])
    # A runner-up wherever none is left: the best of the others, unless two curves are there.
    for b in np.flatnonzero(comparable):
        for i in np.argsort(mean[:, b], kind="stable"):
            spans = [_spans(curve, kept[j], budgets[b]) for j, curve in enumerate(curves)]
            if sum(spans) >= 2:
                break
            if not spans[i] and np.isfinite(mean[i, b]):
                kept[i] |= _bearing(curves[i], budgets[b : b + 1])
    return {
        sample.experiment_id
        for i, curve in enumerate(curves)
        for j, sample in enumerate(curve)
        if j not in kept[i]
    }


def _budgets(samples: Sequence[Sample]) -> np.ndarray:
    """Every point's size and the middles between: there differences of curves are extreme."""
    places = np.unique([sample.bits for sample in samples])
    return np.sort(np.concatenate([places, np.sqrt(places[1:] * places[:-1])]))


def _bearing(curve: list[Sample], budgets: np.ndarray) -> set[int]:
    """The points of a curve that its values at `budgets` come from."""
    x = np.array([sample.bits for sample in curve])
    after = np.searchsorted(x, budgets)
    inside = (budgets >= x[0]) & (budgets <= x[-1])
    after = after[inside]
    on_point = x[after] == budgets[inside]
    return set(after.tolist()) | set((after[~on_point] - 1).tolist())


def _spans(curve: list[Sample], kept: set[int], budget: float) -> bool:
    """Whether the kept points of a curve reach over a budget."""
    sizes = [curve[j].bits for j in kept]
    return bool(sizes) and min(sizes) <= budget <= max(sizes)


def _curves(samples: Sequence[Sample]) -> list[list[Sample]]:
    by_setting: dict[str, list[Sample]] = {}
    for sample in sorted(samples, key=lambda s: s.bits):
        by_setting.setdefault(sample.setting, []).append(sample)
    return list(by_setting.values())


def _read(curve: list[Sample], budgets: np.ndarray) -> np.ndarray:
    """Losses [budgets, windows]: NaN off the curve, inf beside a diverged point."""
    x, q = np.log([sample.bits for sample in curve]), np.log(budgets)
    y = np.stack([sample.losses for sample in curve]).astype(float)
    y[~np.isfinite(y).all(axis=1)] = np.inf
    after = np.clip(np.searchsorted(x, q), 0, len(x) - 1)
    before = np.where(x[after] <= q, after, np.maximum(after - 1, 0))
    width = np.where(after > before, x[after] - x[before], 1.0)
    weight = np.where(after > before, (q - x[before]) / width, 0.0)[:, None]
    with np.errstate(invalid="ignore"):  # 0 * inf
        value = np.where(weight > 0, (1 - weight) * y[before] + weight * y[after], y[before])
    value[(q < x[0] - 1e-12) | (q > x[-1] + 1e-12)] = np.nan
    return value


def _may_win(losses: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Whether a curve is the sample's best or could be MARGIN better: bool [curves, budgets]."""
    best, places = mean.argmin(axis=0), np.arange(mean.shape[1])
    with np.errstate(invalid="ignore"):  # inf - inf and what is off a curve: NaN, cannot win
        lead = losses[best, places] - losses
        error = lead.std(axis=2, ddof=1) / np.sqrt(lead.shape[2])
        may = lead.mean(axis=2) + t.ppf(CONFIDENCE, lead.shape[2] - 1) * error >= MARGIN
    may[best, places] = np.isfinite(mean[best, places])
    return may
