"""`kbit export --from-answer`: the best that fits a budget, of what the format can hold."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from orchestrator.errors import InputError
from quantizers.setting import Setting

if TYPE_CHECKING:
    import pandas as pd

    from analysis.answers.answer import Candidate
    from quantizers.export.compressed_tensors import CompressedTensors
    from quantizers.export.gguf_blocks import Gguf
    from quantizers.export.kbit_format import KBitFormat


def best_to_export(results: pd.DataFrame, args: argparse.Namespace, where: str) -> Candidate:
    """Where the best that fits cannot be exported, that is said, and the best that can is taken.

    Raises InputError, beginning with `where`, if nothing fits.
    """
    best, task = _best_fit(results, args, args.task, where)
    if reason := _inexpressible(best.setting, args.format):
        from analysis.curves.settings import settings_of

        can = [not _inexpressible(setting, args.format) for setting in settings_of(results)]
        left = results[can]
        if args.family not in (None, *left["family"]) or left.empty:
            raise InputError(f"{where}: {reason}; there is no other setting")
        print(f"left out: {best.model}, {best.value:.4f}, at {reason}", flush=True)
        best, _ = _best_fit(left, args, task, f"{where}: {reason}; of what can be exported")
    return best


def writer(name: str) -> KBitFormat | CompressedTensors | Gguf:
    from quantizers.export.compressed_tensors import CompressedTensors
    from quantizers.export.gguf_blocks import Gguf
    from quantizers.export.kbit_format import KBitFormat

    if name == "gguf":
        return Gguf()
    return KBitFormat() if name == "kbit" else CompressedTensors()


def _best_fit(
    results: pd.DataFrame, args: argparse.Namespace, task: str | None, where: str
) -> tuple[Candidate, str]:
    """The best that fits the budget, and what it was scored on."""
    from analysis.answers.optimal import optimal
    from analysis.curves.budget import format_bits, parse_budget
    from analysis.curves.metrics import larger_is_better

    metric = args.metric or "zero_shot"
    try:
        answers = optimal(results, parse_budget(args.budget), args.family, metric, task=task)
    except ValueError as error:
        raise InputError(str(error)) from None
    fitting = [(a.best_fit, a.task) for a in answers if a.best_fit is not None]
    if not fitting:
        asked = results["family"].isin([args.family] if args.family else results["family"])
        least = format_bits(results.loc[asked, "total_bits"].min())
        raise InputError(f"{where}: no experiment fits {args.budget}; the smallest takes {least}")
    return (max if larger_is_better(metric) else min)(fitting, key=lambda fit: fit[0].value)


def _inexpressible(setting: Setting, name: str) -> str:
    """Why a format cannot hold a setting; "" where it can. 16 bit is what the user has already."""
    try:
        if not setting.is_baseline:
            writer(name).check(setting)
    except ValueError as error:
        return str(error)
    return ""
