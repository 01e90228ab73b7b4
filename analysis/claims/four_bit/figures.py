"""The figures of Dettmers & Zettlemoyer 2023, by their numbers, from whatever the database holds.

Each takes the flat `results` frame and raises ValueError, saying what is missing, where the
results do not have what the figure compares. `metric` and `axis` as in curves.scaling_curves.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pandas as pd
import plotly.graph_objects as go

from analysis.curves.names import METRIC_NAMES, name_blocks
from analysis.curves.scaling import Curve, scaling_curves
from analysis.curves.settings import is_plain, main_settings
from analysis.curves.slices import level, vary
from analysis.figures.drawing import Look, draw_curves
from analysis.figures.style import colour, level_colour, level_marker, level_place, marker
from quantizers.granularity import TENSOR
from quantizers.setting import Setting

_FACTOR_NAMES = {
    "block_size": "block size",
    "data_type": "data type",
    "exponent_bits": "exponent bits of the float type",
}


def bits_figure(
    results: pd.DataFrame,
    metric: str = "zero_shot",
    axis: str = "total",
    families: str = "all",
    columns: int = 2,
) -> go.Figure:
    """Total bits against the metric, a curve per precision (figures 1, 2, 7 and 13).

    `families`: "one" (the family with the most models, as figure 1 shows OPT), "base" (without
    fine-tuned BLOOMZ, as figure 2) or "all".
    """
    curves = _curves(results, metric, axis)
    main = main_settings([curve.setting for curve in curves])
    curves = [curve for curve in curves if curve.setting in main]
    curves = _families(curves, families)

    def look(curve: Curve) -> Look:
        bits = curve.setting.bits
        return Look(f"{bits:g}-bit", colour(bits), marker(bits))

    used = next((s for s in main if not s.keeps_weights), None)
    kind = f" ({used.data_type}, {name_blocks(used.block_size, used.by_row)})" if used else ""
    title = f"Bit-level scaling of {METRIC_NAMES[metric]} by precision{kind}"
    return draw_curves(curves, look, title, columns=columns)


def factor_figure(
    results: pd.DataFrame,
    metric: str = "zero_shot",
    axis: str = "total",
    factor: str = "block_size",
    bits: tuple[int, ...] = (4,),
    families: str = "all",
    columns: int = 2,
) -> go.Figure:
    """One factor varied at fixed precision (figures 3, 8-12, 14, 15): a curve per level.

    `factor`: block_size, data_type or exponent_bits. A panel per family, and per precision where
    there are several in `bits`. The other factors are those of the best covered cut.
    """
    curves = _curves(results, metric, axis)
    cut = _families([curve for k in bits for curve in vary(curves, factor, k)], families)
    if not cut:
        precisions = ", ".join(str(k) for k in bits)
        raise ValueError(
            f"no family has two settings at {precisions} bit that differ in {factor} alone"
        )
    levels = list(dict.fromkeys(level(curve.setting, factor) for curve in cut))
    levels.sort(key=lambda value: (value is None, value if isinstance(value, int) else 0))

    def look(curve: Curve) -> Look:
        i = level_place(level(curve.setting, factor), levels)
        return Look(_level_name(curve.setting, factor), level_colour(i), level_marker(i))

    present = sorted({curve.setting.bits for curve in cut})
    several = len(present) > 1
    one = ", ".join(f"{k:g}-bit" for k in present)
    title = f"{one}: {METRIC_NAMES[metric]} by {_FACTOR_NAMES[factor]}{_rest(cut[0], factor)}"
    return draw_curves(
        cut,
        look,
        title,
        (lambda c: f"{c.family}, {c.setting.bits:g}-bit") if several else (lambda c: c.family),
        columns,
    )


def outlier_figure(
    results: pd.DataFrame, metric: str = "zero_shot", axis: str = "total", columns: int = 2
) -> go.Figure:
    """Proxy quantization at 3 and 4 bit (figure 4): with outlier dimensions in 16 bit, dashed."""
    curves = _curves(results, metric, axis)
    cut = [curve for k in (3, 4) for curve in vary(curves, "outlier_fraction", k)]
    if not cut:
        raise ValueError("no family has 3 or 4 bit settings both with and without proxy outliers")

    def look(curve: Curve) -> Look:
        s = curve.setting
        if not s.outlier_fraction:
            return Look(f"{s.bits:g}-bit", colour(s.bits), marker(s.bits))
        name = f"{s.bits:g}-bit, {s.outlier_fraction:.0%} outliers in 16 bit"
        return Look(name, colour(s.bits), marker(s.bits) + "-open", "dash")

    title = f"Proxy-quantized outliers by {METRIC_NAMES[metric]}{_rest(cut[0], '')}"
    return draw_curves(cut, look, title, columns=columns)


def method_figure(
    results: pd.DataFrame, metric: str = "zero_shot", axis: str = "total", columns: int = 2
) -> go.Figure:
    """One-shot methods beside rounding, with and without blocks (figure 5), where there are any.

    Of many one-shot settings those that differ from the drawn ones of rounding in the method alone,
    or in having no blocks, on the calibration that most have.
    """
    curves = [c for c in _curves(results, metric, axis) if c.setting.bits in (2, 3, 4)]
    one_shot = [c for c in curves if c.setting.method not in ("rtn", "none")]
    if not one_shot:
        raise ValueError("no experiment of a one-shot method (GPTQ) at 2 to 4 bit")
    families = {c.family for c in one_shot}
    main = main_settings([c.setting for c in curves])
    drawn = [c for c in curves if c.family in families and c.setting in main]
    drawn += _comparable(one_shot, main)

    def look(curve: Curve) -> Look:
        s = curve.setting
        if s in main:
            return Look(s.label, colour(s.bits), marker(s.bits))
        dash = "dot" if s.block_size is None else "dash"
        name = replace(s, calibration=None).label
        return Look(name, colour(s.bits), marker(s.bits) + "-open", dash)

    order = {family: i for i, family in enumerate(dict.fromkeys(c.family for c in drawn))}
    drawn.sort(key=lambda c: (order[c.family], c.setting.bits))
    title = f"One-shot quantization beside rounding by {METRIC_NAMES[metric]}"
    return draw_curves(drawn, look, title, columns=columns)


def _comparable(one_shot: list[Curve], main: set[Setting]) -> list[Curve]:
    usual = Counter(c.setting.calibration for c in one_shot).most_common(1)[0][0]
    found = [c for c in one_shot if c.setting.calibration == usual]
    wanted = {(s.data_type, s.granularity) for s in main if not s.keeps_weights}
    types = {data_type for data_type, _ in wanted}
    blocks = {TENSOR} | {granularity for _, granularity in wanted}
    tests: list[Callable[[Setting], bool]] = [
        lambda s: is_plain(replace(s, method="rtn", calibration=None)),
        lambda s: s.data_type in types,
        lambda s: s.granularity in blocks,
    ]
    for fits in tests:
        found = [c for c in found if fits(c.setting)] or found
    return found


Figure = Callable[..., go.Figure]
LOSS = "cross_entropy"
FIGURES: dict[str, Figure] = {
    "figure-01-total-bits": partial(bits_figure, families="one"),
    "figure-02-total-bits": partial(bits_figure, families="base"),
    "figure-03-block-size-4-bit": partial(factor_figure, factor="block_size", families="one"),
    "figure-03-data-type-4-bit": partial(factor_figure, factor="data_type", families="one"),
    "figure-04-proxy-outliers": outlier_figure,
    "figure-05-one-shot": method_figure,
    "figure-05-one-shot-loss": partial(method_figure, metric=LOSS),
    "figure-07-total-bits-all": bits_figure,
    "figure-08-block-size-4-bit-all": partial(factor_figure, factor="block_size"),
    "figure-09-data-type-4-bit-all": partial(factor_figure, factor="data_type"),
    "figure-10-data-type-6-to-8-bit": partial(factor_figure, factor="data_type", bits=(6, 7, 8)),
    "figure-11-block-size-6-to-8-bit": partial(factor_figure, factor="block_size", bits=(6, 7, 8)),
    "figure-12-exponent-bits": partial(
        factor_figure, factor="exponent_bits", bits=(3, 4, 5, 6, 7, 8)
    ),
    "figure-13-total-bits-loss": partial(bits_figure, metric=LOSS),
    "figure-14-data-type-loss": partial(factor_figure, factor="data_type", metric=LOSS),
    "figure-15-block-size-loss": partial(factor_figure, factor="block_size", metric=LOSS),
}
"""Figures of scaling curves; 6 (codes on real weights) and 16 (speed) take other data."""


def _curves(results: pd.DataFrame, metric: str, axis: str) -> list[Curve]:
    curves = scaling_curves(results, metric, axis)
    if not curves:
        raise ValueError(f"no experiment has {METRIC_NAMES[metric]}")
    return curves


def _families(curves: list[Curve], families: str) -> list[Curve]:
    if families == "base":
        return [curve for curve in curves if curve.family != "bloomz"] or curves
    if families == "one" and curves:
        largest = max(curves, key=lambda curve: len(curve.bits)).family
        return [curve for curve in curves if curve.family == largest]
    return curves


def _level_name(setting: Setting, factor: str) -> str:
    value = level(setting, factor)
    if factor == "block_size":
        return name_blocks(setting.block_size, setting.by_row)
    if factor == "exponent_bits":
        return f"{value} exponent bit{'s' if value != 1 else ''}"
    return str(value)


def _rest(curve: Curve, factor: str) -> str:
    """What the curves of a cut share, in brackets."""
    s = curve.setting
    parts = [] if factor == "data_type" else [str(s.data_type)]
    parts += [f"E{s.exponent_bits}"] if s.exponent_bits and factor == "block_size" else []
    parts += [name_blocks(s.block_size, s.by_row)] if factor != "block_size" else []
    return f" ({', '.join(parts)})"
