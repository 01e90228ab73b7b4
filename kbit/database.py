"""The `--db` argument shared by the commands that read a database."""

from __future__ import annotations

import argparse

from kbit import sources
from orchestrator.errors import InputError
from orchestrator.paths import database_url, results_dir
from orchestrator.store.store import Store


def add_db(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--db", help="database path or SQLAlchemy URL (default: the newest in results/)"
    )


def find_store(db: str | None) -> Store:
    """The database asked for, else the newest one in the results folder. Raises InputError."""
    return Store.open(database_url(db or _newest()))


def open_store(db: str | None) -> Store:
    """As `find_store`, for a command, which says at its end what it has read."""
    store = find_store(db)
    sources.databases.append(store.url)
    return store


def _newest() -> str:
    found = sorted(results_dir().glob("*.db"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(f"{results_dir()}: no database there; run a sweep first or give --db")
    return str(found[-1])


def store_to_extend(db: str) -> Store:
    """The database asked for, to add rows to. Raises InputError when there is none."""
    open_store(db).close()
    return Store.create(database_url(db))
