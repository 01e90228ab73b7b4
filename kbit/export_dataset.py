"""`kbit export-dataset`: the results as Parquet files with a data card, to be shared."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from analysis.curves.settings import with_recipes
from kbit.database import add_db, open_store
from orchestrator.errors import InputError
from orchestrator.outputs import folder_to_fill, writing
from orchestrator.store.reading import read_item_scores, read_results

if TYPE_CHECKING:
    from orchestrator.store.store import Store

EXAMPLE = (
    "example: kbit export-dataset --db results/demo.db --output demo-results\n"
    "The folder holds README.md, results.parquet and items.parquet (one row an item's score)."
)
_CARD = """\
---
configs:
- config_name: results
  data_files: results.parquet
- config_name: items
  data_files: items.parquet
---
# k-bit inference results

{experiments} experiments (a model at one quantization setting) of {models} models in {families}
families: {family_names}. Measured with kbit: blockwise k-bit quantization of pretrained language
models, each scored on the same items.

## results.parquet

{rows} rows, one a metric of an experiment under a protocol. Empty `value`: the model diverged.
Empty `stderr`: unknown. Sizes (`total_bits`, `quantized_bits`, `nominal_bits`) are in bits.

| column | type | values |
|---|---|---|
{columns}

## items.parquet

{items} rows, one a score of an item: `experiment_id`, `task`, `protocol` and `metric` as in
results.parquet, `item` (its place in the task), `score` (32-bit float). Settings of one model were
scored on the same items in the same order: compare them item by item.

## How it was measured

Packages: {versions}. Devices: {devices}.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_db(parser)
    parser.add_argument("--output", type=Path, required=True, help="a folder to be made")


def run(args: argparse.Namespace) -> int:
    folder = folder_to_fill(args.output, new=True)
    store = open_store(args.db)
    results = with_recipes(read_results(store))
    if results.empty:
        raise InputError(f"{store.url}: no results yet; run a sweep first")
    items = _items(store, results)
    with writing(folder):
        folder.mkdir(parents=True)
        results.to_parquet(folder / "results.parquet", index=False)
        items.to_parquet(folder / "items.parquet", index=False)
        (folder / "README.md").write_text(_card(store, results, len(items)), encoding="utf-8")
    print(f"{len(results):,} results and {len(items):,} scores of items: {folder}")
    return 0


def _items(store: Store, results: pd.DataFrame) -> pd.DataFrame:
    key = ["task", "protocol", "metric"]
    parts = []
    for values, group in results.groupby(key, sort=False):
        task, protocol, metric = map(str, values)
        found = read_item_scores(store, list(group["experiment_id"]), task, metric, protocol)
        for id_, scores in found.items():
            named = {"experiment_id": id_, "task": task, "protocol": protocol, "metric": metric}
            parts.append(pd.DataFrame({**named, "item": range(len(scores)), "score": scores}))
    columns = ["experiment_id", *key, "item", "score"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _card(store: Store, results: pd.DataFrame, n_items: int) -> str:
    attempts = store.attempts()
    versions = [", ".join(f"{k} {v}" for k, v in each.items()) for each in attempts["versions"]]
    families = list(results["family"].unique())
    return _CARD.format(
        experiments=results["experiment_id"].nunique(),
        models=results["model"].nunique(),
        families=len(families),
        family_names=", ".join(families),
        rows=len(results),
        columns="\n".join(_column(results[name]) for name in results),
        items=n_items,
        versions="; ".join(dict.fromkeys(v for v in versions if v)) or "unknown",
        devices=", ".join(sorted(set(attempts["device"]) - {""})) or "unknown",
    )


def _column(column: pd.Series) -> str:
    return f"| `{column.name}` | {column.dtype} | {_values(column)} |"


def _values(column: pd.Series) -> str:
    """A few distinct values, or the range."""
    known = column.dropna()
    if known.empty:
        return "none"
    if pd.api.types.is_numeric_dtype(known) and known.nunique() > 6:
        return f"{known.min():g} to {known.max():g}"
    distinct = sorted(map(str, known.unique()))
    text = ", ".join(distinct)
    return text if len(text) <= 80 else f"{len(distinct)} different"
