"""Cuts through the grid of settings: curves that differ in one factor and share all others."""

from collections.abc import Sequence
from dataclasses import fields, replace

from analysis.curves.scaling import Curve
from analysis.curves.settings import is_plain
from quantizers.data_types import default_exponent_bits
from quantizers.setting import Setting


def level(setting: Setting, factor: str) -> object:
    """The value of a factor (a field of Setting); a data type with its exponent bits if float."""
    return getattr(setting, factor)


def vary(curves: Sequence[Curve], factor: str, bits: float) -> list[Curve]:
    """The curves at `bits` that differ in `factor` alone, in the best covered cut of each family.

    The cut with the most levels is taken, among those the one with the most experiments, then
    rounding to nearest with nothing else done, then float before other types, then the smallest
    block. Different data types come each with their most common exponent bits. Empty where no two
    levels can be compared. Curves are ordered by family and level, null (one block a tensor) last.
    """
    chosen: list[Curve] = []
    for family in dict.fromkeys(curve.family for curve in curves):
        own = [c for c in curves if c.family == family and c.setting.bits == bits]
        if factor in ("block_size", "data_type", "exponent_bits"):
            own = [c for c in own if c.setting == _without_additions(c.setting)]
        if factor == "exponent_bits":
            own = [c for c in own if c.setting.data_type == "float"]
        if factor == "data_type":
            own = _usual_exponents(own)
        cuts: dict[tuple, list[Curve]] = {}
        for curve in own:
            cuts.setdefault(_others(curve.setting, factor), []).append(curve)
        if cuts:
            best = max(cuts.values(), key=lambda cut: _worth(cut, factor))
            if len({level(c.setting, factor) for c in best}) > 1:
                chosen += sorted(best, key=lambda c: _order(level(c.setting, factor)))
    return chosen


def _others(setting: Setting, factor: str) -> tuple:
    left_out = {factor, "exponent_bits"} if factor == "data_type" else {factor}
    return tuple(getattr(setting, f.name) for f in fields(setting) if f.name not in left_out)


def _without_additions(setting: Setting) -> Setting:
    return replace(setting, outlier_fraction=0.0, centered=False)


def _usual_exponents(curves: list[Curve]) -> list[Curve]:
    splits: dict[int | None, int] = {}
    for curve in curves:
        if curve.setting.data_type == "float":
            exponent = curve.setting.exponent_bits
            splits[exponent] = splits.get(exponent, 0) + len(curve.bits)
    default = default_exponent_bits(int(curves[0].setting.bits)) if curves else None
    usual = max(splits, key=lambda e: (splits[e], e == default), default=None)
    return [c for c in curves if c.setting.data_type != "float" or c.setting.exponent_bits == usual]


def _worth(cut: list[Curve], factor: str) -> tuple:
    first = cut[0].setting
    return (
        len({level(c.setting, factor) for c in cut}),
        sum(len(c.bits) for c in cut),
        is_plain(_without_additions(first)),
        first.scope == "linear",
        first.data_type == "float",
        -(first.block_size or 1 << 62),
    )


def _order(value: object) -> tuple:
    return (value is None, value if isinstance(value, int | float) else 0, str(value))
