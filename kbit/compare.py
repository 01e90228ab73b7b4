"""`kbit compare`: what two databases measured differently."""

from __future__ import annotations

import argparse

import pandas as pd

from analysis.noise.versions import measured_twice
from kbit.database import item_scores_of, open_store
from kbit.output import add_format, print_frame
from orchestrator.errors import InputError
from orchestrator.store.reading import read_results

EXAMPLE = (
    "example: kbit compare results/old.db results/new.db\n"
    "The same sweep on two machines, or with two versions of a library. Differences are the\n"
    "second's less the first's; their error is over the items that both were scored on."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="DB", help="path or SQLAlchemy URL")
    parser.add_argument("second", metavar="DB", help="likewise")
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    stores = [open_store(db) for db in (args.first, args.second)]
    first, second = (read_results(store) for store in stores)
    table = measured_twice(first, second, *[item_scores_of(store) for store in stores])
    if table.empty:
        raise InputError(f"{args.first} and {args.second} have no experiment and task in common")
    print_frame(table, args.format)
    if args.format == "table":
        ids = [set(frame["experiment_id"]) for frame in (first, second)]
        shared = len(ids[0] & ids[1])
        print(
            f"\n{shared} experiments in both, {len(ids[0]) - shared} in the first alone, "
            f"{len(ids[1]) - shared} in the second alone"
        )
        for store in stores:
            print(f"{store.url}: {_versions(store.attempts())}")
    return 0


def _versions(attempts: pd.DataFrame) -> str:
    """All that they ran with."""
    each = (", ".join(f"{k} {v}" for k, v in ran.items()) for ran in attempts["versions"])
    return "; ".join(dict.fromkeys(each)) or "imported"
