"""Which settings GPTQ can round in one go. Torch-free: a sweep is planned with it."""

from __future__ import annotations

from quantizers.factors import A_MATRIX, FIELDS
from quantizers.setting import Setting


def shared(setting: Setting) -> tuple | None:
    """Equal for settings that can be stacked; None for those that GPTQ does not round, and those
    that fold, whose scales may depend on how weights are stored, and sequential ones: what reaches
    a block depends on how those before it were rounded."""
    if setting.method != "gptq" or setting.folding != "none" or setting.is_sequential:
        return None
    return tuple(getattr(setting, name) for name, f in FIELDS.items() if A_MATRIX not in f.metadata)
