"""What `kbit optimal --memory` says: which experiments fit a device, weights and context."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd

from analysis.answers.memory import Serving, cache_bits_per_token, choices_for_memory
from analysis.answers.serving import serving_table
from analysis.curves.budget import format_bits, parse_budget
from kbit.output import print_frame
from orchestrator.store.reading import model_sources
from orchestrator.store.store import Store

MEMORY_ROWS = 15  # choices a person is shown


def print_memory(results: pd.DataFrame, store: Store, args: argparse.Namespace) -> None:
    """The experiments that fit, the best first within each task."""
    serving = Serving(args.context or 0, args.batch or 1)
    cache = {model: _cache_bits(folder) for model, folder in model_sources(store).items()}
    budget = parse_budget(args.memory)
    table = choices_for_memory(results, budget, cache, serving, args.family, args.metric, args.task)
    if args.format != "table":
        print_frame(table, args.format)
        return
    sizes = {c: [format_bits(bits) for bits in table[c]] for c in ("weights", "cache", "needed")}
    shown = table.assign(**sizes).drop(columns=["bits", "data_type", "block_size"])
    if len(shown):
        print_frame(shown.groupby("task").head(MEMORY_ROWS).dropna(axis=1, how="all"), "table")
    unknown = sorted(model for model in cache if cache[model] is None)
    served = serving_table(results)
    if len(served):
        print("\nwhat serving them costs, as measured (kbit bench latency --shapes):")
        print_frame(served.dropna(axis=1, how="all"), "table")
    if unknown and serving.context:
        print(f"left out, no config.json here that sizes the context: {', '.join(unknown)}")
    print(
        f"{len(table)} experiments fit in {format_bits(budget)} with {serving.context} tokens x "
        f"{serving.batch}; activations and the runtime's own memory are not counted"
    )


def _cache_bits(source: str) -> int | None:
    """Bits of context memory a token, from a local model directory's config.json."""
    try:
        config = json.loads((Path(source) / "config.json").read_text())
        return cache_bits_per_token(config) if isinstance(config, dict) else None
    except (OSError, ValueError, TypeError):  # not there, not JSON, or not numbers
        return None
