"""`kbit results`: rows of the flat results view."""

from __future__ import annotations

import argparse

import pandas as pd

from analysis.curves.settings import with_recipes
from kbit.database import add_db, open_store
from kbit.output import add_format, print_frame
from orchestrator.errors import InputError
from orchestrator.store.reading import experiment_origins, protocol_settings
from orchestrator.store.store import Store
from quantizers.setting import SETTING_COLUMNS

EXAMPLE = "example: kbit results --family sotu-neox --bits 4 --metric cross_entropy --format csv"
FILTERS = {"family": str, "model": str, "bits": float, "data_type": str, "task": str, "metric": str}
FILTERS |= {"variant": str, "seed": int, "step": int}  # of models that a study trained
SETTING_PART = [
    "model",
    "bits",
    "data_type",
    "exponent_bits",
    "block_size",
    "scope",
    "bits_per_param",
    "total_bits",
]
VALUE_PART = ["metric", "value", "stderr", "n_items"]
# Shown where rows differ in them.
VARIED_COLUMNS = [name for name in SETTING_COLUMNS if name not in SETTING_PART]
VARIED_COLUMNS += ["source", "variant", "seed", "step"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_db(parser)
    add_format(parser)
    for name, kind in FILTERS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=f"only this {name}")


def run(args: argparse.Namespace) -> int:
    store = open_store(args.db)
    everything = rows = store.results()
    for name in FILTERS:
        wanted = getattr(args, name)
        if wanted is not None:
            known = everything[name].dropna().unique()
            if wanted not in known:  # a slip of the pen: an empty table would pass for an answer
                asked, *there = (f"{v:g}" if name == "bits" else str(v) for v in (wanted, *known))
                raise InputError(
                    f"{store.url}: no {name} {asked}; there are {', '.join(there) or 'no rows'}"
                )
            rows = rows[rows[name] == wanted]
    if args.format != "table":
        print_frame(with_recipes(rows), args.format)  # programs get all columns
        return 0
    rows = with_recipes(rows.reset_index(drop=True))
    measured = _varied(_settings_of_protocols(rows, store), rows["task"])
    models = _varied(_origins(rows, store), rows["model"])
    varied = [name for name in VARIED_COLUMNS if rows[name].nunique() > 1]
    counted = rows["n_items"].astype("Int64").where(rows["n_items"] > 0)  # 0: an import's unknown
    values = rows[VALUE_PART].assign(n_items=counted)
    told = [rows[SETTING_PART], rows[varied], models, rows[["task"]], measured, values]
    short = pd.concat(told, axis=1)
    if rows["recipe"].notna().any():
        short = short.assign(recipe=rows["recipe"].fillna(""))
    print_frame(short, args.format)
    return 0


def _settings_of_protocols(rows: pd.DataFrame, store: Store) -> pd.DataFrame:
    """How each row was measured, a column each of what its protocol says, as text."""
    known = protocol_settings(store)
    return pd.DataFrame([known[id_] for id_ in rows["protocol"]], dtype=object).map(_text)


def _origins(rows: pd.DataFrame, store: Store) -> pd.DataFrame:
    """What an experiment's id holds beside its setting."""
    return experiment_origins(store).loc[rows["experiment_id"]].reset_index(drop=True)


def _varied(columns: pd.DataFrame, groups: pd.Series) -> pd.DataFrame:
    """Those that tell rows of one group (of a task, of a model) apart."""
    different = columns.groupby(groups).nunique(dropna=False).gt(1).any()
    return columns.loc[:, [name for name in columns if different.get(name, False)]]


def _text(value: object) -> object:
    absent = value is None or (isinstance(value, float) and pd.isna(value))
    return None if absent else str(value)
