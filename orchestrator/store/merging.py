"""Rows of one database added to another, by their ids: what both have must be the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, Table, insert, select, update

from orchestrator.errors import InputError
from orchestrator.store.schema import (
    AttemptRow,
    Base,
    ExperimentRow,
    FailureRow,
    ItemScoresRow,
    MeasurementRow,
    Meta,
    ProtocolRow,
    SiteRecordRow,
)
from orchestrator.store.store import Store

_Key = tuple[Any, ...]
_LATER = ("n_params", "total_bits", "quantized_bits", "nominal_bits")  # NULL until it was run


def merge(target: Store, source: Store) -> None:
    """Add everything of `source` to `target`, in one transaction; what is there already stays.

    Raises InputError where both hold another value of one metric of an experiment, and adds nothing
    then. Attempts that are the same (experiment, end, host) are one.
    """
    with source.reading() as read, target.lock(), target.writer.transaction() as write:
        _merge(read, write, source.url)


def _merge(read: Connection, write: Connection, where: str) -> None:
    experiments = _matched(read, write, ExperimentRow, ("id",))
    protocols = _matched(read, write, ProtocolRow, ("id",))
    numbers = {"experiment": experiments, "protocol": protocols}
    known = {key for key, _ in _keyed(write, AttemptRow, _ATTEMPT)}
    attempts = _matched(read, write, AttemptRow, _ATTEMPT, numbers)
    numbers["attempt"] = attempts
    _fill(read, write)
    _add(read, write, MeasurementRow, numbers, where)
    _add(read, write, ItemScoresRow, numbers, where)
    new = {
        attempts[row["number"]]
        for row in _rows(read, AttemptRow)
        if _key(_renumbered(row, numbers), _ATTEMPT) not in known
    }
    for table in (FailureRow, SiteRecordRow):
        rows = (_renumbered(row, numbers) for row in _rows(read, table))
        _insert(write, table, [row for row in rows if row["attempt"] in new])
    there = {row["key"] for row in _rows(write, Meta)}
    _insert(write, Meta, [row for row in _rows(read, Meta) if row["key"] not in there])


_ATTEMPT = ("experiment", "stage", "finished_at", "host", "status")


def _matched(
    read: Connection,
    write: Connection,
    table: type[Base],
    key: tuple[str, ...],
    numbers: Mapping[str, Mapping[int, int]] | None = None,
) -> dict[int, int]:
    """Number in the source -> number in the target, of rows that are inserted where they lack."""
    rows = [(row["number"], _renumbered(row, numbers or {})) for row in _rows(read, table)]
    known = {found for found, _ in _keyed(write, table, key)}
    lacking = {_key(row, key): row for _, row in rows if _key(row, key) not in known}
    _insert(write, table, [_without_number(row) for row in lacking.values()])
    there = dict(_keyed(write, table, key))
    return {number: there[_key(row, key)] for number, row in rows}


def _fill(read: Connection, write: Connection) -> None:
    """Sizes that the target's experiments lack, since only the source ran them."""
    table = _table(ExperimentRow)
    sizes = {row["id"]: row for row in _rows(read, ExperimentRow)}
    for row in _rows(write, ExperimentRow):
        found = sizes.get(row["id"], {})
        missing = {c: found[c] for c in _LATER if row[c] is None and found.get(c) is not None}
        if missing:
            write.execute(update(table).where(table.c.number == row["number"]).values(missing))


def _add(
    read: Connection,
    write: Connection,
    table: type[Base],
    numbers: Mapping[str, Mapping[int, int]],
    where: str,
) -> None:
    """Rows of experiments under protocols. Raises InputError for those that differ."""
    key = ("experiment", "protocol", "metric")
    there = {_key(row, key): row for row in _rows(write, table)}
    new = []
    for row in _rows(read, table):
        row = _renumbered(row, numbers)
        old = there.get(_key(row, key))
        if old is None:
            new.append(row)
        elif any(old[c] != row[c] for c in row if c != "attempt"):
            told = _experiment(write, row["experiment"])
            raise InputError(
                f"{where}: holds another {row['metric']} of {told} than what is merged already; "
                "kbit compare shows what differs"
            )
    _insert(write, table, new)


def _experiment(connection: Connection, number: int) -> str:
    table = _table(ExperimentRow)
    row = connection.execute(select(table).where(table.c.number == number)).mappings().one()
    return f"{row['model']} at {row['bits']:g} bit (experiment {row['id'][:12]})"


def _table(table: type[Base]) -> Table:
    found = table.__table__
    assert isinstance(found, Table)
    return found


def _rows(connection: Connection, table: type[Base]) -> Iterator[dict[str, Any]]:
    return (dict(row) for row in connection.execute(select(_table(table))).mappings())


def _keyed(
    connection: Connection, table: type[Base], key: tuple[str, ...]
) -> Iterator[tuple[_Key, int]]:
    return ((_key(row, key), row["number"]) for row in _rows(connection, table))


def _key(row: Mapping[str, Any], key: tuple[str, ...]) -> _Key:
    return tuple(row[name] for name in key)


def _renumbered(row: dict[str, Any], numbers: Mapping[str, Mapping[int, int]]) -> dict[str, Any]:
    changed = {name: numbers[name].get(row[name]) for name in numbers if name in row}
    return {**row, **changed}


def _without_number(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "number"}


def _insert(connection: Connection, table: type[Base], rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(insert(_table(table)), rows)
