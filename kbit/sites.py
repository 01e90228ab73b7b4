"""`kbit sites`: what rounding activations did at each matrix, and so why a setting failed."""

from __future__ import annotations

import argparse
import re

import pandas as pd

from kbit.database import add_db, open_store
from kbit.output import add_format, print_frame
from orchestrator.errors import InputError
from orchestrator.store.reading import read_site_records
from quantizers.recipes import recipe_of
from quantizers.setting import Setting

EXAMPLE = (
    "example: kbit sites --db results/demo.db --model sotu-neox-64x4\n"
    "format: what the policy chose. range: the largest magnitude in calibration; range_read: that\n"
    "after folding. median_channel, median_channel_read: the median channel's. median_token,\n"
    "token_99: what half and 99 % of the tokens stay within, before folding. levels: the steps of\n"
    "the scale that the median channel reaches; a static one collapses where they are few.\n"
    "clamped: the share of scored elements beyond the range.\n"
    "keys, values: the ranges of a static key-value cache; keys_clamped, values_clamped: the\n"
    "share of them beyond it."
)
QUANTITIES = (
    *("format", "range", "range_read", "median_channel", "median_channel_read"),
    *("median_token", "token_99", "levels", "clamped"),
    *("keys", "values", "keys_clamped", "values_clamped"),
)
_BLOCK = re.compile(r"\.\d+\.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_db(parser)
    add_format(parser)
    parser.add_argument("--model", help="only this model")
    parser.add_argument(
        "--all", action="store_true", help="a row a matrix, not one for those of all blocks alike"
    )


def run(args: argparse.Namespace) -> int:
    store = open_store(args.db)
    records = read_site_records(store, QUANTITIES)
    if args.model is not None:
        known = records["model"].unique()
        if args.model not in known:
            there = ", ".join(known) or "none"
            raise InputError(f"{store.url}: no records of model {args.model}; there are: {there}")
        records = records[records["model"] == args.model]
    if records.empty:
        raise InputError(f"{store.url}: no setting of a sweep there has rounded activations")
    sites = site_table(records)
    print_frame(sites if args.all else alike(sites), args.format)
    return 0


def site_table(records: pd.DataFrame) -> pd.DataFrame:
    """One row a matrix of an experiment, with a column for each quantity that any has."""
    settings = {
        row["experiment_id"]: Setting.from_row(row)
        for row in records.drop_duplicates("experiment_id").to_dict("records")
    }
    recipes = {setting.label: recipe_of(setting) or "" for setting in settings.values()}
    cells = records.assign(
        setting=records["experiment_id"].map({id_: s.label for id_, s in settings.items()}),
        found=records["label"].where(records["label"].notna(), records["value"]),
    )
    places = ["model", "setting", "site"]
    wide = cells.pivot_table(
        index=places, columns="quantity", values="found", aggfunc="first", sort=False
    )
    found = [name for name in QUANTITIES if name in wide]
    numbers = dict.fromkeys((name for name in found if name != "format"), "float64")
    sites = wide[found].astype(numbers).reset_index()
    sites.insert(1, "recipe", sites["setting"].map(recipes))
    return sites


def alike(sites: pd.DataFrame) -> pd.DataFrame:
    """One row for the matrices of all blocks that have one name and format: the widest range, the
    fewest levels, the largest share clamped."""
    worst = {name: "min" if name == "levels" else "max" for name in sites if name in QUANTITIES[1:]}
    named = sites.assign(site=sites["site"].map(lambda name: _BLOCK.sub(".*.", name)))
    places = [name for name in ("model", "recipe", "setting", "site", "format") if name in named]
    grouped = named.groupby(places, sort=False, dropna=False)
    return grouped.agg(worst).assign(matrices=grouped.size()).reset_index()
