"""The `--db` argument shared by the commands that read a database."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from kbit import sources
from orchestrator.errors import InputError
from orchestrator.paths import database_url, results_dir
from orchestrator.store.reading import read_item_scores, screened_axes
from orchestrator.store.store import Store

if TYPE_CHECKING:
    from analysis.noise.bootstrap import ItemScores


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


def item_scores_of(store: Store) -> ItemScores:
    """The stored per-item scores, as the bootstrap asks for them."""
    return partial(read_item_scores, store)


def screened_out(store: Store, axis: str) -> str:
    """What an adaptive sweep's screening leaves undetermined on an axis; "" where nothing is."""
    blind = {family: axes for family, axes in screened_axes(store).items() if axis not in axes}
    if not blind:
        return ""
    asked = " and ".join(sorted(set.union(*blind.values()) - {""})) or "no"
    return (
        f"{', '.join(blind)}: undetermined on this axis: experiments were dropped by screening, "
        f"which asked about {asked} bits"
    )
