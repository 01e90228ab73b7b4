"""Which settings cannot be stacked, where a sweep asks for stacking."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from orchestrator.errors import InputError
from quantizers.setting import Setting
from quantizers.stackable import shared


def check_stacking(settings: Iterable[Setting], where: Path) -> None:
    """Raises InputError naming a setting that GPTQ rounds by itself, or where it rounds none."""
    by_gptq = [setting for setting in settings if setting.method == "gptq"]
    if not by_gptq:
        raise InputError(f"{where}: compute.stacking is true, but no setting is rounded by GPTQ")
    for setting in by_gptq:
        if shared(setting) is None:
            why = (
                "with `hessian: sequential` its inputs depend on how it rounded the blocks before"
                if setting.is_sequential
                else f"its folding, {setting.folding}, may go by how weights are rounded"
            )
            raise InputError(
                f"{where}: compute.stacking is true, but {setting.label} cannot be stacked: {why}; "
                "leave stacking out (what can be stacked then is), or that setting"
            )
