"""Which settings GPTQ can round in one go. Torch-free: a sweep is planned with it."""

from __future__ import annotations

from dataclasses import fields

from quantizers.setting import Setting

# What settings of a stack may differ in: how weights are stored and rounded, not what else is done.
_MAY_DIFFER = frozenset(
    ("bits", "data_type", "exponent_bits", "block_size", "by_row", "centered", "outlier_fraction")
    + ("scales", "clip_weighting", "gptq_order", "gptq_damping", "gptq_dead")
)


def shared(setting: Setting) -> tuple | None:
    """Equal for settings that can be stacked; None for those that GPTQ does not round, and those
    that fold, whose scales may depend on how weights are stored, and sequential ones: what reaches
    a block depends on how those before it were rounded."""
    if setting.method != "gptq" or setting.folding != "none" or setting.is_sequential:
        return None
    return tuple(getattr(setting, f.name) for f in fields(setting) if f.name not in _MAY_DIFFER)
