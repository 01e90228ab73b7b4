"""`kbit outliers`: does a unit's weight deviation tell how large its features are? (Table 2)"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from kbit.output import add_format, print_frame
from orchestrator.arguments import whole
from orchestrator.errors import InputError

EXAMPLE = (
    "example: kbit outliers sotu-neox sotu-opt --db results/embedded.db\n"
    "Records every linear layer's inputs on held-out text and correlates them with the standard\n"
    "deviation of the weights that produce them (section 3 and appendix D of the paper)."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="+", help="models or whole families of models.yaml")
    parser.add_argument("--models", type=Path, help="another models.yaml")
    parser.add_argument("--corpus", default="sotu", help="text to read (default: sotu, held out)")
    parser.add_argument("--max-tokens", type=whole(2), default=8192, help="of it (default: 8192)")
    parser.add_argument("--db", help="also store what was measured in this database")
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    import torch

    from analysis.findings.outliers import as_measurement, outlier_correlations, summary
    from kbit.chosen_models import chosen_models
    from kbit.database import store_to_extend
    from kbit.model_windows import model_and_windows
    from kbit.record import store_measurements
    from quantizers.plain import plain
    from quantizers.setting import Setting

    entries = chosen_models(args.model, args.models)
    store = store_to_extend(args.db) if args.db else None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tables = []
    for entry in entries:
        try:
            model, windows, protocol = model_and_windows(
                entry, args.corpus, device, tokens=args.max_tokens
            )
            found = outlier_correlations(model, _magnitudes(model, windows))
        except (OSError, ValueError) as error:
            raise InputError(f"{entry.name}: {plain(error)}") from None
        tables.append(summary(found).assign(family=entry.family, model=entry.name))
        if store is not None:
            name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
            measured = as_measurement(found, protocol)
            store_measurements(store, entry, Setting.make(16), device, name, [measured])
    table = pd.concat(tables, ignore_index=True)
    first = ["family", "model", "pair"]
    print_frame(table[[*first, *(c for c in table.columns if c not in first)]], args.format)
    return 0


def _magnitudes(model: Any, windows: list[list[int]]) -> dict[str, Any]:
    from evaluation.activations import input_magnitudes
    from quantizers.wiring import wiring_of

    sites = wiring_of(model).linear
    if any(site.expert is not None for site in sites):
        raise ValueError("what each of its experts reads cannot be recorded")
    return input_magnitudes(model, [(site.name, site.module) for site in sites], windows)
