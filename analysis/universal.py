"""How often each precision wins, with intervals, and whether one precision is (almost) always best.

The paper's headline is that 4 bit is "almost universally optimal" (abstract, section 5.1).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.bootstrap import ItemScores, item_noise, kept_models, no_item_scores
from analysis.certainty import best_settings, contenders
from analysis.curves import Curve, FloatArray
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
    """Whether `bits` is almost universally optimal: at 90% of budgets or more, families alike.

    `share`: of budgets at which it wins, with its interval over items; `tied_share`: at which it
    wins or the winner's lead over it could be luck (90% interval); `families_led` of `n_families`
    are those in which it wins most often. `verdict`: "holds" if even the interval's lower end is
    at or above 90%, "fails" if even the tied share is below, else "open".
    """

    bits: int
    share: float
    low: float
    high: float
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

    Columns: family, bits, share (of log-spaced budgets at which two curves overlap), low, high
    (90% interval over items, widened to hold the share), low_models, high_models (over items and
    models). The rows of EVERY_FAMILY weigh families alike. No verdict where nothing overlaps or
    `bits` has no curve.
    """
    fields = competitors(results, metric, axis, task)
    parts = [_family_shares(curves, scores, bits) for curves in fields.values()]
    counted = {family: part for family, part in zip(fields, parts, strict=True) if part is not None}
    columns = ["family", "bits", "share", "low", "high", "low_models", "high_models"]
    if not counted:
        return pd.DataFrame(columns=columns), None
    families = list(counted.values())
    every = sorted({bits for part in families for bits in part.every})
    pooled = [
        np.mean([part.share_of(k, kind) for part in families], axis=0)
        for kind in range(3)
        for k in every
    ]
    rows = [
        _row(family, k, *(part.share_of(k, kind) for kind in range(3)))
        for family, part in counted.items()
        for k in part.every
    ]
    n = len(every)
    rows += [
        _row(EVERY_FAMILY, k, pooled[i], pooled[n + i], pooled[2 * n + i])
        for i, k in enumerate(every)
    ]
    table = pd.DataFrame(rows, columns=columns)
    if bits not in every:
        return table, None
    own = table[(table["family"] == EVERY_FAMILY) & (table["bits"] == bits)].iloc[0]
    by_family = table[table["family"] != EVERY_FAMILY]
    led = by_family.loc[by_family.groupby("family")["share"].idxmax(), "bits"]
    tied = float(np.mean([part.tied for part in families]))
    verdict = "holds" if own["low"] >= ALMOST else "fails" if tied < ALMOST else "open"
    return table, Universality(
        bits,
        float(own["share"]),
        float(own["low"]),
        float(own["high"]),
        tied,
        int((led == bits).sum()),
        len(families),
        verdict,
    )


@dataclass(frozen=True)
class _FamilyShares:
    """Shares [S, R] of each setting as measured (R = 1), over items, and over models besides.

    Of the settings that can be best somewhere; `every` lists the family's precisions.
    """

    every: list[int]
    precisions: np.ndarray
    shares: tuple[FloatArray, FloatArray, FloatArray]
    tied: float

    def share_of(self, bits: int, kind: int) -> FloatArray:
        return self.shares[kind][self.precisions == bits].sum(axis=0)


def _family_shares(curves: list[Curve], scores: ItemScores, bits: int) -> _FamilyShares | None:
    span = overlap_range(curves)
    if span is None:
        return None
    budgets = np.geomspace(*span, _N_BUDGETS)
    panel, points = contenders(curves, budgets)
    value = panel.value + item_noise(panel, scores, _N_REPLICATES, points)
    keep = kept_models(panel, len(value))
    now = panel.read(budgets)
    chunk = max(1, _CELLS_AT_ONCE // (panel.value.size * len(budgets)))
    best_items, best_models, behind = [], [], []
    of_bits = np.flatnonzero(panel.precisions == bits)
    for start in range(0, len(value), chunk):
        part = slice(start, start + chunk)
        read = panel.read(budgets, value[part])
        best_items.append(best_settings(panel, read))
        best_models.append(best_settings(panel, panel.read(budgets, value[part], keep[part])))
        behind.append(_behind(panel, now, read, of_bits))
    shares = (
        _shares(best_settings(panel, now[None]), len(panel.curves)),
        _shares(np.concatenate(best_items), len(panel.curves)),
        _shares(np.concatenate(best_models), len(panel.curves)),
    )
    contested = np.isfinite(now).sum(axis=0) >= 2
    with np.errstate(invalid="ignore"):
        lead = np.nan_to_num(np.concatenate(behind), nan=np.inf)
        tied = np.quantile(lead, (1 - INTERVAL) / 2, axis=0, method="lower") <= 0
    every = sorted({curve.setting.bits for curve in curves})
    return _FamilyShares(every, panel.precisions, shares, float(tied[contested].mean()))


def _behind(panel: Panel, now: FloatArray, read: FloatArray, of_bits: np.ndarray) -> FloatArray:
    """Lead of the measured winner over the measured best curve `of_bits` in replicates, [R, m]."""
    score = np.where(np.isnan(now), -np.inf, panel.better * now)
    column = np.arange(score.shape[1])
    first = score.argmax(axis=0)
    if not len(of_bits):
        return np.full(read[:, 0].shape, np.inf)
    own = of_bits[score[of_bits].argmax(axis=0)]
    lead = panel.better * (read[:, first, column] - read[:, own, column])
    return np.where(first == own, 0.0, lead)


def _shares(best: np.ndarray, n_settings: int) -> FloatArray:
    """Share of decided budgets at which each setting is best, [S, R], from winners [R, m]."""
    won = np.stack([(best == i).sum(axis=1) for i in range(n_settings)])
    return won / np.maximum(1, (best >= 0).sum(axis=1))


def _row(
    family: str, bits: int, now: FloatArray, items: FloatArray, models: FloatArray
) -> list[object]:
    row: list[object] = [family, bits, float(now[0])]
    for replicates in (items, models):
        low, high = np.quantile(replicates, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
        # Replicates hold the noise twice, so near ties they spread the wins: never past the share.
        row += [min(float(low), float(now[0])), max(float(high), float(now[0]))]
    return row
