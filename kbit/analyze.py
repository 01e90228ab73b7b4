"""`kbit analyze`: what the weights and activations of models look like, site by site."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kbit.output import add_format, print_frame
from orchestrator.arguments import belongs_to, whole
from orchestrator.errors import InputError
from orchestrator.paths import database_url

if TYPE_CHECKING:
    from evaluation.measurement import Measurement
    from evaluation.statistics.model_analysis import ModelAnalysis

EXAMPLE = (
    "example: kbit analyze sotu-neox-64x2 sotu-opt-64x2\n"
    "         kbit analyze sotu-neox --outliers          outlier dimensions by three rules\n"
    "         kbit analyze sotu-neox-64x4 --plant 4x64   the positive control\n"
    "Errors are those of 8-bit vector-wise quantization of a site's input and weight. Columns are\n"
    "means over the windows (Ahmadian et al. 2023, section 5 and appendix B)."
)
TASK = "weights_and_activations"
NOTE = "* changes when a norm is scaled and its readers divided by it: one architecture only"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="+", help="models or whole families of models.yaml")
    parser.add_argument("--models", type=Path, help="another models.yaml")
    parser.add_argument("--corpus", default="sotu", help="text to read (default: sotu, held out)")
    parser.add_argument("--windows", type=whole(1), default=20, help="of the model's context (20)")
    parser.add_argument("--outliers", action="store_true", help="outlier dimensions instead")
    parser.add_argument("--plant", metavar="CHANNELSxFACTOR", help="plant outliers first")
    parser.add_argument("--seed", type=whole(0), help="with --plant: which features (0)")
    parser.add_argument("--db", help="also store what was measured in this database")
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    planted = parse_plant(args.plant) if args.plant else None
    if planted and args.db:
        raise InputError("--plant: a planted model is no experiment; leave --db out")
    if planted is None:
        belongs_to("--plant", {"--seed": args.seed})
    import torch

    from evaluation.statistics.model_analysis import ModelAnalysis
    from kbit.chosen_models import chosen_models
    from kbit.model_windows import model_and_windows
    from kbit.record import store_measurements
    from orchestrator.store.store import Store
    from quantizers.plain import plain
    from quantizers.plant import plant
    from quantizers.setting import Setting

    entries = chosen_models(args.model, args.models)
    store = Store.create(database_url(args.db)) if args.db else None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tables = []
    for entry in entries:
        try:
            model, windows, protocol = model_and_windows(
                entry, args.corpus, device, windows=args.windows
            )
            if planted:
                plant(model, *planted, args.seed or 0)
            analysis = ModelAnalysis(model, windows)
        except (OSError, ValueError) as error:
            raise InputError(f"{entry.name}: {plain(error)}") from None
        rows = outlier_rows(analysis) if args.outliers else analysis.sites()
        tables.append(pd.DataFrame(rows).assign(model=entry.name))
        if store is not None:
            name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
            measured = as_measurement(analysis, protocol)
            store_measurements(store, entry, Setting.make(16), device, name, [measured])
    table = pd.concat(tables, ignore_index=True)
    print_frame(_for_people(table) if args.format == "table" else table, args.format)
    if args.format == "table" and not args.outliers:
        print(NOTE)
    return 0


def outlier_rows(
    analysis: ModelAnalysis, searched_threshold: float | None = None
) -> list[dict[str, Any]]:
    """A row a rule of what counts as an outlier dimension. Shares in percent.

    The searched threshold is that of a study's smallest model; None: this model's own."""
    return [
        {
            "rule": rule,
            "threshold": count.threshold,
            "dimensions": len(count.dimensions),
            "tokens_percent": 100 * count.token_share,
            "layers_percent": 100 * count.layer_share,
        }
        for rule, count in analysis.outliers(searched_threshold).items()
    ]


def as_measurement(
    analysis: ModelAnalysis, protocol: dict[str, Any], searched_threshold: float | None = None
) -> Measurement:
    """What to store of a model: a metric for each figure and kind of site, the mean over sites;
    its items are the sites in forward order. Then the counts of outlier dimensions."""
    from evaluation.measurement import Measurement, Metric

    sites = pd.DataFrame(analysis.sites())
    figures = [column for column in sites.columns if column not in ("site", "block", "kind")]
    metrics, items = [], {}
    for kind, rows in sites.groupby("kind", sort=False):
        for figure in figures:
            values = rows[figure].dropna().to_numpy(dtype=np.float64)
            if len(values):
                name = f"{figure}_{kind}"
                metrics.append(Metric(name, float(values.mean()), None, len(values)))
                items[name] = values.astype(np.float32)
    for row in outlier_rows(analysis, searched_threshold):
        rule = str(row.pop("rule")).replace(" ", "_")
        metrics += [
            Metric(f"outlier_{name}_{rule}", float(value), None, analysis.n_windows)
            for name, value in row.items()
        ]
    return Measurement(TASK, protocol, tuple(metrics), items)


def _for_people(table: pd.DataFrame) -> pd.DataFrame:
    """The model first; a star at every figure that rescaling changes."""
    from evaluation.statistics.tensor_metrics import NOT_INVARIANT

    table = table[["model", *(c for c in table.columns if c != "model")]]
    return table.rename(columns={name: f"{name}*" for name in NOT_INVARIANT})


def parse_plant(value: str) -> tuple[int, float]:
    """Channels and factor of "4x64". Raises InputError."""
    match = re.fullmatch(r"(\d+)x(\d+(?:\.\d+)?)", value)
    if match is None:
        raise InputError(f"--plant {value}: channels x factor, such as 4x64")
    return int(match[1]), float(match[2])
