"""What a factor is worth, in equivalent bits: its gain over the gain of one more bit.

The paper (section 5.2): going from blocks of 1024 to 64 costs 0.24 bits a parameter and gains
almost as much as going from 4 to 5 bit. The gain is at equal parameters, over the same models.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.curves.panel import Panel, make_panel
from analysis.curves.scaling import Curve, FloatArray, scaling_curves
from analysis.curves.settings import main_settings
from analysis.curves.slices import level, vary
from analysis.noise.bootstrap import ItemScores, item_noise, no_item_scores
from analysis.noise.spread import INTERVAL
from quantizers.data_types import default_exponent_bits
from quantizers.setting import Setting

FACTORS = {
    "block_size": "Block size",
    "data_type": "Data type",
    "exponent_bits": "Exponent bits",
    "centered": "Centering",
    "outlier_fraction": "Proxy outliers",
}
"""Those whose worth is asked for, and what reports call them."""
_COLUMNS = (
    *("family", "bits", "factor", "level", "reference"),
    *("gain", "gain_low", "gain_high", "equivalent_bits", "equivalent_low", "equivalent_high"),
    *("n_models", "n_better", "cost", "equivalent_at_reference", "any_low", "any_high"),
)


def factor_effects(
    results: pd.DataFrame,
    metric: str = "cross_entropy",
    scores: ItemScores = no_item_scores,
    factors: Iterable[str] = tuple(FACTORS),
) -> pd.DataFrame:
    """The effect of each level of each factor against a reference level, per family and precision.

    The reference is the largest block, int, the main exponent split, not centered, no outliers.
    Columns: family, bits, factor, level, reference, gain (mean over models, positive is better),
    gain_low, gain_high, equivalent_bits (gain over that of one more bit; NaN where that is not
    clearly positive or not measured; one more bit of the main settings), equivalent_low,
    equivalent_high (90%, over items), equivalent_at_reference (one more bit of the reference level
    itself, say of its block size), cost
    (bits a parameter it adds over the reference), n_models, n_better (models that gain), any_low
    and any_high: an interval of the gain that holds for all levels of the factor at once with 90%,
    for whoever picks the best of them.
    """
    factors = [factor for factor in factors if results[factor].nunique(dropna=False) > 1]
    fields: dict[str, list[Curve]] = {}
    for curve in scaling_curves(results, metric) if factors else []:
        fields.setdefault(curve.family, []).append(curve)
    rows: list[dict[str, object]] = []
    for family, curves in fields.items():
        panel = make_panel(curves)
        cuts = {
            (factor, bits): cut
            for factor in factors
            for bits in sorted({c.setting.bits for c in curves} - {16})
            if (cut := vary(curves, factor, bits))
        }
        main = main_settings([c.setting for c in curves])
        needed = {c.setting for cut in cuts.values() for c in cut} | main
        used = np.array([curve.setting in needed for curve in curves])
        points = np.broadcast_to(used[:, None], panel.value.shape)
        value = np.concatenate(
            [panel.value[None], panel.value + item_noise(panel, scores, points=points)]
        )
        number = {curve.setting: i for i, curve in enumerate(curves)}
        for (factor, bits), cut in cuts.items():
            bit = _one_bit(panel, value, main, number, bits)
            reference = _reference(cut, factor, main)
            beyond = _bit_beyond(panel, value, reference, number)
            others = [curve.setting for curve in cut if curve.setting != reference]
            gains = [_gain(panel, value, number[reference], number[other]) for other in others]
            of_any = simultaneous([change for change, *_ in gains])
            for other, gain, (low, high) in zip(others, gains, of_any, strict=True):
                row: dict[str, object] = {
                    "family": family,
                    "bits": bits,
                    "factor": factor,
                    "level": _name(other, factor),
                    "reference": _name(reference, factor),
                }
                row |= _numbers(gain, bit) | _cost(other, reference)
                from_reference = _numbers(gain, beyond)
                row["equivalent_at_reference"] = from_reference["equivalent_bits"]
                rows.append(row | {"any_low": low, "any_high": high})
    return pd.DataFrame(rows, columns=list(_COLUMNS))  # these, where there is no row, too


def _gain(panel: Panel, value: FloatArray, start: int, end: int) -> tuple[FloatArray, int, int]:
    """Mean improvement from curve `start` to `end` over the models both have, [1 + R].

    With the number of these models, and of those that improve.
    """
    common = [
        (i, j)
        for i, model in enumerate(panel.model[start])
        for j, other in enumerate(panel.model[end])
        if model == other >= 0
        and np.isfinite(panel.value[start, i])
        and np.isfinite(panel.value[end, j])
    ]
    if not common:
        return np.full(len(value), np.nan), 0, 0
    i, j = (list(places) for places in zip(*common, strict=True))
    change = panel.better * (value[:, end, j] - value[:, start, i])
    return change.mean(axis=1), len(common), int((change[0] > 0).sum())


def _one_bit(
    panel: Panel,
    value: FloatArray,
    main: set[Setting],
    number: dict[Setting, int],
    bits: float,
) -> FloatArray:
    """What one more bit gains at `bits`, [1 + R], between main settings; NaN where unknown."""
    here = next((s for s in main if s.bits == bits), None)
    more = min((s for s in main if bits < s.bits < 16), key=lambda s: s.bits, default=None)
    if here is None or more is None:
        return np.full(len(value), np.nan)
    gain, *_ = _gain(panel, value, number[here], number[more])
    return gain / (more.bits - bits)


def _bit_beyond(
    panel: Panel, value: FloatArray, reference: Setting, number: dict[Setting, int]
) -> FloatArray:
    """What one more bit gains at a reference level itself, [1 + R]; NaN where unknown."""
    usual = default_exponent_bits(reference.bits)
    exponent = reference.exponent_bits
    more = [
        setting
        for setting in number
        if reference.bits < setting.bits < 16
        and setting == replace(reference, bits=setting.bits, exponent_bits=setting.exponent_bits)
        and (exponent is None or setting.exponent_bits == default_exponent_bits(setting.bits))
    ]
    if not more or exponent not in (None, usual):
        return np.full(len(value), np.nan)
    following = min(more, key=lambda setting: setting.bits)
    gain, *_ = _gain(panel, value, number[reference], number[following])
    return gain / (following.bits - reference.bits)


def _reference(cut: list[Curve], factor: str, main: set[Setting]) -> Setting:
    settings = [curve.setting for curve in cut]
    if factor == "exponent_bits":
        return next((s for s in settings if s in main), settings[0])
    if factor == "data_type":
        return next((s for s in settings if s.data_type == "int"), settings[0])
    if factor == "block_size":
        return max(settings, key=lambda s: s.block_size or np.inf)
    return min(settings, key=lambda s: float(level(s, factor)))  # type: ignore[arg-type]


def _numbers(gain: tuple[FloatArray, int, int], bit: FloatArray) -> dict[str, object]:
    change, n, n_better = gain
    ends = [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2]
    low, high = np.quantile(change[1:], ends) if n else (np.nan, np.nan)
    row: dict[str, object] = {"gain": change[0], "gain_low": low, "gain_high": high}
    # A ratio has no use where its denominator may be 0.
    clear = np.isfinite(bit).all() and np.quantile(bit[1:], ends[0]) > 0 and n
    ratio = change / bit if clear else np.full(len(change), np.nan)
    low, high = np.quantile(ratio[1:], ends)
    row |= {"equivalent_bits": ratio[0], "equivalent_low": low, "equivalent_high": high}
    return row | {"n_models": n, "n_better": n_better}


def simultaneous(changes: Sequence[FloatArray]) -> list[tuple[float, float]]:
    """Intervals of several gains, [1 + R] each, that hold together: by the largest deviation of
    any, in its standard errors (max-t)."""
    gain, noise = np.array([c[0] for c in changes]), np.array([c[1:] - c[0] for c in changes])
    error = noise.std(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = np.nan_to_num(np.abs(noise) / error[:, None], nan=0.0)
    margin = np.quantile(deviation.max(axis=0), INTERVAL) * error
    return list(zip((gain - margin).tolist(), (gain + margin).tolist(), strict=True))


def _cost(setting: Setting, reference: Setting) -> dict[str, object]:
    return {"cost": setting.bits_per_param - reference.bits_per_param}


def _name(setting: Setting, factor: str) -> str:
    value = level(setting, factor)
    if factor == "block_size":
        return "tensor" if value is None else str(value)
    if factor == "outlier_fraction":
        return f"{setting.outlier_fraction:.0%}"
    if factor == "exponent_bits":
        return f"E{value}"
    return str(value)
