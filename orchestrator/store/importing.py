"""Other people's numbers: a tidy CSV or lm-eval result JSON, checked whole before any is stored."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from orchestrator.errors import InputError
from orchestrator.store.imported_row import KNOWN, SIZES, ImportedRow, check_row
from orchestrator.store.lm_eval_results import lm_eval_rows
from orchestrator.store.perplexities import LOSSES, logarithm
from orchestrator.store.recording import insert_new, row_numbers
from orchestrator.store.schema import ExperimentRow, MeasurementRow, ProtocolRow
from orchestrator.store.store import Store

# Columns of what `kbit results` writes, of which an import sets its own.
IGNORED = ("source", "experiment_id", "protocol", "recipe")
_MOST_SHOWN = 20
_UNKNOWN = ("", "nan", "na", "n/a", "<na>", "null")


def read_import(path: Path, source: str, defaults: Mapping[str, str]) -> list[ImportedRow]:
    """The rows of a CSV (a header with the names in KNOWN) or of lm-eval result JSON.

    `defaults` fill in columns that the file lacks (lm-eval's JSON knows neither family nor
    setting). `source` marks every row. Raises InputError: a file that is neither, or the first
    bad rows, each with its number (CSV lines count from 1, the header's) and reason. After the
    file's rows come cross-entropies, the logarithms of perplexities that have none beside them.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        what = "a folder; give a CSV, or the JSON that lm-eval writes"
        raise InputError(f"{path}: is {what}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if not 1 <= len(source) <= 64:
        raise InputError(f"source {source!r}: give a name of 1 to 64 characters")
    for name in defaults:
        if name not in KNOWN:
            raise InputError(f"column {name!r} is unknown; known are {', '.join(KNOWN)}")
    is_json = path.suffix == ".json" or text.lstrip().startswith("{")
    raw = lm_eval_rows(text, path) if is_json else _csv_rows(text, path)
    for name in defaults:
        if raw and all(name in given and not _missing(name, given[name]) for _, given in raw):
            raise InputError(f"{path}: has a {name} in every row: leave out --set {name}")
    rows: list[ImportedRow] = []
    problems: dict[str, list[str]] = {}  # reason -> where
    seen: dict[tuple[str, str, str], str] = {}  # experiment id, protocol id, metric -> place
    sized: dict[str, tuple[str, dict[str, Any]]] = {}
    for place, given in raw:
        filled = {**defaults, **{k: v for k, v in given.items() if not _missing(k, v)}}
        try:
            row = check_row(filled, source)
            key = (row.experiment["id"], row.protocol["id"], row.measurement["metric"])
            if key in seen:
                raise ValueError(f"the same experiment, task and metric as {seen[key]}")
            sizes = {name: row.experiment[name] for name in SIZES}
            first, known = sized.setdefault(key[0], (place, sizes))
            if known != sizes:
                raise ValueError(f"the same model and setting as {first}, of another size")
            seen[key] = place
            rows.append(row)
        except ValueError as error:
            problems.setdefault(str(error), []).append(place)
    if problems:
        raise InputError(f"{path}: nothing imported: {_listed(problems)}")
    if not rows:
        raise InputError(f"{path}: no rows to import")
    return rows + _cross_entropies(rows)


def _missing(column: str, cell: Any) -> bool:
    """Whether a cell says nothing: empty, or as tables write it. A value that is NaN says that a
    model has diverged."""
    return cell is None or str(cell).lower() in (_UNKNOWN[:1] if column == "value" else _UNKNOWN)


def _listed(problems: Mapping[str, list[str]]) -> str:
    """Each reason once, with the first place that it was met at."""
    told = [
        f"{places[0]}{f' and {len(places) - 1} more' if len(places) > 1 else ''}: {reason}"
        for reason, places in problems.items()
    ]
    more = len(told) - _MOST_SHOWN
    return "; ".join(told[:_MOST_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _csv_rows(text: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        names = [name.strip() for name in reader.fieldnames or []]
        unknown = [name for name in names if name not in KNOWN + IGNORED]
        if unknown or len(set(names)) < len(names):
            what = f"unknown column {unknown[0]!r}" if unknown else "a column appears twice"
            raise InputError(f"{path}: row 1: {what}; columns are {', '.join(KNOWN)}")
        reader.fieldnames = names
        rows: list[tuple[str, dict[str, Any]]] = []
        for row in reader:
            place = f"row {reader.line_num}"
            if None in row or None in row.values():
                rows.append((place, {"_width": len(names)}))
                continue
            known = {k: v.strip() for k, v in row.items() if k not in IGNORED}
            rows.append((place, known))
        return rows
    except csv.Error as error:
        raise InputError(f"{path}: row {reader.line_num}: not CSV: {error}") from None


def _cross_entropies(rows: Sequence[ImportedRow]) -> list[ImportedRow]:
    """Those of perplexities of corpora; one that is given stands."""
    given = {(row.experiment["id"], row.protocol["id"], row.measurement["metric"]) for row in rows}
    graded = {row.task for row in rows if row.measurement["metric"] not in LOSSES}
    return [
        replace(row, measurement=logarithm(row.measurement))
        for row in rows
        if row.measurement["metric"] == "perplexity"
        and row.task not in graded
        and (row.experiment["id"], row.protocol["id"], "cross_entropy") not in given
    ]


def store_rows(store: Store, rows: Sequence[ImportedRow]) -> int:
    """Write imported rows in one transaction and return how many are new.

    Rows that are stored already change nothing. Raises InputError, with nothing stored, when one
    says something else than the database does, or another process is writing.
    """
    experiments = {row.experiment["id"]: row.experiment for row in rows}
    source = rows[0].experiment["source"]
    protocols = {row.protocol["id"]: row.protocol for row in rows}
    with store.lock(), store.writer.transaction() as connection:
        insert_new(connection, ExperimentRow, list(experiments.values()))
        insert_new(connection, ProtocolRow, list(protocols.values()))
        experiment_numbers = row_numbers(connection, ExperimentRow, set(experiments))
        protocol_numbers = row_numbers(connection, ProtocolRow, set(protocols))
        _check_sizes(connection, experiments)
        new = [
            {
                "experiment": experiment_numbers[row.experiment["id"]],
                "protocol": protocol_numbers[row.protocol["id"]],
                **row.measurement,
            }
            for row in rows
        ]
        stored = _stored_values(connection, set(protocol_numbers.values()))
        key = ("experiment", "protocol", "metric")
        for row, values in zip(rows, new, strict=True):
            old = stored.get(tuple(values[k] for k in key), values["value"])
            if old != values["value"]:
                e = row.experiment
                raise InputError(
                    f"nothing imported: {e['model']} at {e['bits']} bit, {row.task} "
                    f"{values['metric']}: {old} is stored from source {source!r}; "
                    "give another --source"
                )
        insert_new(connection, MeasurementRow, new)
    return sum(tuple(values[k] for k in key) not in stored for values in new)


def _check_sizes(connection: Connection, experiments: Mapping[str, dict[str, Any]]) -> None:
    columns = [ExperimentRow.__table__.c[name] for name in ("id", *SIZES)]
    source = next(iter(experiments.values()))["source"]
    for row in connection.execute(select(*columns).where(ExperimentRow.source == source)):
        given = experiments.get(row.id)
        if given and any(given[name] != getattr(row, name) for name in SIZES):
            raise InputError(
                f"nothing imported: {given['model']} at {given['bits']} bit is stored with another "
                f"size from source {source!r}; give another --source"
            )


def _stored_values(connection: Connection, protocols: set[int]) -> dict[tuple, float | None]:
    columns = [MeasurementRow.__table__.c[n] for n in ("experiment", "protocol", "metric", "value")]
    query = select(*columns).where(MeasurementRow.protocol.in_(protocols))
    return {tuple(row)[:3]: row[3] for row in connection.execute(query)}
