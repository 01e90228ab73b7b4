"""`kbit merge`: several databases in one, by the ids of their experiments."""

from __future__ import annotations

import argparse
from contextlib import closing

from kbit.database import open_store
from orchestrator.errors import InputError
from orchestrator.outputs import file_to_write
from orchestrator.paths import database_url
from orchestrator.store.engine import sqlite_file
from orchestrator.store.merging import merge
from orchestrator.store.store import Store

EXAMPLE = (
    "example: kbit merge results/a.db results/b.db --output results/both.db\n"
    "What several hold must be the same to the last bit: else nothing is written, and\n"
    "kbit compare shows the differences."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("databases", nargs="+", metavar="DB", help="path or SQLAlchemy URL")
    parser.add_argument("--output", required=True, metavar="DB", help="a database to be made")


def run(args: argparse.Namespace) -> int:
    url = database_url(args.output)
    file = sqlite_file(url)
    if file is not None:
        file_to_write(file)
    if file is not None and file.exists():
        raise InputError(f"--output {file}: is there already; give a new one")
    sources = [open_store(db) for db in args.databases]
    made = False
    try:
        with closing(Store.create(url)) as target:
            for source in sources:
                merge(target, source)
            counts = {name: target.results()[name].nunique() for name in ("experiment_id", "model")}
        made = True
    finally:
        if not made and file is not None:
            file.unlink(missing_ok=True)
    print(f"{counts['experiment_id']} experiments of {counts['model']} models: {url}")
    return 0
