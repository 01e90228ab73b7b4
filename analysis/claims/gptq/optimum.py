"""Does GPTQ move the bit-optimal precision?"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from analysis.claims.claim import FAILS, HOLDS, UNKNOWN, UNRESOLVED, Claim, between, table
from analysis.claims.gptq.points import LOSS, ROUNDINGS
from analysis.claims.paper import Study
from analysis.curves.names import listed
from analysis.curves.panel import make_panel, overlap_range, precisions_reaching
from analysis.curves.scaling import Curve, FloatArray, scaling_curves
from analysis.curves.settings import is_plain
from analysis.noise.bootstrap import ItemScores, item_noise
from analysis.noise.spread import interval
from quantizers.setting import Setting

N_BUDGETS = 60
MOVED = 0.1  # bits: a mean optimum that moves by less has not moved


def claims(study: Study) -> Iterator[Claim]:
    curves = [c for c in scaling_curves(study.results, LOSS) if c.setting.scope == "linear"]
    rows, nearest, one_shot = [], [], []
    compared: set[float] = set()
    for family in dict.fromkeys(curve.family for curve in curves):
        fields = _fields([curve for curve in curves if curve.family == family])
        if fields is None:
            continue
        span = overlap_range(fields[0])
        if span is None:
            continue
        budgets = np.geomspace(*span, N_BUDGETS)
        optima = [_optimal_bits(field, budgets, study.scores) for field in fields]
        compared |= {curve.setting.bits for curve in fields[0]}
        nearest.append(optima[0])
        one_shot.append(optima[1])
        rows += [
            [family, way, *_shares(o[0])] for way, o in zip(ROUNDINGS.values(), optima, strict=True)
        ]
    if not rows:
        return
    shift = np.concatenate(nearest, axis=1) - np.concatenate(one_shot, axis=1)  # [1 + R, budgets]
    decided = np.isfinite(shift[0])
    if not decided.any():
        return
    down = np.nanmean(shift[:, decided], axis=1)
    low, high = interval(down[1:])
    low, high = min(low, down[0]), max(high, down[0])
    yield Claim(
        "GPTQ moves the bit-optimal precision down",
        "ours; section 7 expects one-shot methods to do best below 4 bit",
        "With GPTQ the precision that is best for a given number of bits is lower than with "
        "rounding to nearest.",
        _verdict(low, high),
        f"the optimum is {down[0]:+.2f} bits lower with GPTQ (mean over budgets, "
        f"{between(low, high, '+.2f')})",
        [
            "Every setting that was measured with both roundings competes, once with each, and 16 "
            f"bit; precisions here: {listed([f'{bits:g}' for bits in sorted(compared)])} bit. The "
            "optimum is read at budgets that two precisions reach, log-spaced, every one counting "
            "alike. "
            f"The claim holds if the interval is above 0 and the mean at {MOVED:g} bits or more, "
            f"does not hold if the whole interval is below {MOVED:g}, and is not resolved "
            "otherwise.",
            table(
                ["Family", "Rounding", "Mean optimum (bits)", "Share of budgets won by"],
                rows,
                text=2,
            ),
        ],
    )


def _verdict(low: float, high: float) -> str:
    if not (low == low and high == high):
        return UNKNOWN
    if high < MOVED:
        return FAILS
    return HOLDS if low > 0 else UNRESOLVED


def _fields(curves: list[Curve]) -> tuple[list[Curve], list[Curve]] | None:
    """A family's curves to nearest, and the same settings by GPTQ, each with 16 bit."""
    full = [c for c in curves if c.setting.is_baseline]
    nearest = {_to_nearest(c.setting): c for c in curves if is_plain(c.setting) and c not in full}
    ours = [c for c in curves if c.setting.method == "gptq"]
    usual = Counter(c.setting.calibration for c in ours).most_common(1)
    one_shot = {
        twin: curve
        for curve in ours
        if curve.setting.calibration == usual[0][0]
        and (twin := _to_nearest(curve.setting)) in nearest
    }
    if len({setting.bits for setting in one_shot}) < 2:
        return None
    return [nearest[s] for s in one_shot] + full, list(one_shot.values()) + full


def _to_nearest(setting: Setting) -> Setting:
    """Its weights' format alone, rounded to nearest; other options stay, and have no twin."""
    return replace(setting, method="rtn", calibration=None)


def _optimal_bits(curves: list[Curve], budgets: FloatArray, scores: ItemScores) -> FloatArray:
    """Precision that wins at each budget, [1 + R, m]: as measured, then with other items."""
    panel = make_panel(curves)
    value = np.concatenate([panel.value[None], panel.value + item_noise(panel, scores)])
    read = panel.read(budgets, value)
    score = np.where(np.isfinite(read), panel.better * read, -np.inf)
    best = panel.precisions[score.argmax(axis=1)]
    return np.where(precisions_reaching(panel, read) >= 2, best, np.nan)


def _shares(winners: FloatArray) -> list[str]:
    won = winners[np.isfinite(winners)]
    each = [f"{bits:g}-bit {(won == bits).mean():.0%}" for bits in np.unique(won)]
    return [f"{won.mean():.2f}" if len(won) else "", ", ".join(each)]
