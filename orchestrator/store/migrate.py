"""Bring a database that an older version wrote up to date, in one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy import Connection, insert, inspect, select, text, update

from orchestrator.store.perplexities import add_logarithms
from orchestrator.store.recording import protocol_limits
from orchestrator.store.schema import (
    RESULTS_VIEW,
    SCHEMA_VERSION,
    AttemptRow,
    FailureRow,
    Meta,
    ProtocolRow,
    SiteRecordRow,
)


def _limits_as_columns(connection: Connection) -> None:
    """Copy what readers ask of a protocol out of its JSON."""
    stored = connection.execute(select(ProtocolRow.number, ProtocolRow.settings)).all()
    for number, settings in stored:
        row = update(ProtocolRow).where(ProtocolRow.number == number)
        connection.execute(row.values(protocol_limits(settings)))


def _batch_sizes_as_column(connection: Connection) -> None:
    """They stood among the versions."""
    stored = connection.execute(select(AttemptRow.number, AttemptRow.versions)).all()
    for number, versions in stored:
        if (size := versions.get("tokens_per_batch", "")).isdigit():
            row = update(AttemptRow).where(AttemptRow.number == number)
            connection.execute(row.values(tokens_per_batch=int(size)))


def _make_failures(connection: Connection) -> None:
    """Empty: which protocols failed is not known, and what failed is tried again once."""
    FailureRow.__table__.create(connection, checkfirst=True)  # type: ignore[attr-defined]


def _make_site_records(connection: Connection) -> None:
    """Empty: nothing was recorded of single matrices."""
    SiteRecordRow.__table__.create(connection)  # type: ignore[attr-defined]


# The attempt of each measurement, where there was but one of its stage that scored.
_MEASURED_BY = """
UPDATE measurements SET attempt = (
    SELECT CASE WHEN count(*) = 1 THEN min(a.number) END
    FROM attempts a JOIN experiments e ON e.number = a.experiment
    WHERE a.experiment = measurements.experiment
      AND a.status IN ('done', 'failed', 'outgrown')
      AND (a.stage = 'full') = (measurements.metric NOT LIKE '%_sample')
)
"""

# Screening asked about total bits alone.
_AXES_OF_OLD = "UPDATE attempts SET axes = 'total' WHERE status = 'dropped'"


def _give_identity(connection: Connection) -> None:
    """What tells this database from another at the same place."""
    if connection.scalar(select(Meta.value).where(Meta.key == "identity")) is None:
        connection.execute(insert(Meta).values(key="identity", value=uuid.uuid4().hex))


def _wider_formats(connection: Connection) -> None:
    """Activation formats with all their options. SQLite's columns have no width."""
    if connection.dialect.name == "postgresql":
        wide = "ALTER TABLE experiments ALTER COLUMN activations TYPE VARCHAR(128)"
        connection.execute(text(wide))


def _bits_as_numbers(connection: Connection) -> None:
    """Other people's precisions may be fractions. SQLite's columns take them as they are."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("ALTER TABLE experiments ALTER COLUMN bits TYPE FLOAT"))


class Column(NamedTuple):
    """A column that a table is given if it lacks it, and what then fills it."""

    table: str
    name: str
    kind: str
    fill: tuple[str | Callable[[Connection], None], ...] = ()


Step = str | Column | Callable[[Connection], None]

# From version -> what leads to the next one. Columns are only ever added (or widened), so that a
# reader of the older version goes on working beside it. Every change of the schema that lands is a
# version of its own. Version 3 was not: it grew through a dozen shapes, which is why each step that
# leads to it looks for what is there, and why a database of version 3 takes these steps again.
GREW = 3
STEPS: dict[int, tuple[Step, ...]] = {
    1: (
        "ALTER TABLE attempts ADD COLUMN stage VARCHAR(16) NOT NULL DEFAULT 'full'",
        "ALTER TABLE attempts ADD COLUMN seconds_store FLOAT",
        "ALTER TABLE attempts ADD COLUMN git_commit VARCHAR(64)",
    ),
    2: (
        Column("protocols", "context", "INTEGER"),
        Column("protocols", "limit", "INTEGER"),
        Column("protocols", "max_tokens", "INTEGER", (_limits_as_columns,)),
        Column("attempts", "tokens_per_batch", "INTEGER", (_batch_sizes_as_column,)),
        Column("attempts", "axes", "VARCHAR(64)", (_AXES_OF_OLD,)),
        Column("measurements", "attempt", "INTEGER REFERENCES attempts (number)", (_MEASURED_BY,)),
        _make_failures,
        _give_identity,
        _bits_as_numbers,
        Column("experiments", "by_row", "BOOLEAN NOT NULL DEFAULT false"),
        Column("experiments", "scales", "VARCHAR(16) NOT NULL DEFAULT 'absmax'"),
        Column("experiments", "clip_weighting", "VARCHAR(16) NOT NULL DEFAULT 'plain'"),
        Column("experiments", "gptq_order", "BOOLEAN NOT NULL DEFAULT true"),
        Column("experiments", "gptq_damping", "FLOAT NOT NULL DEFAULT 0.01"),
        Column("experiments", "folding", "VARCHAR(64) NOT NULL DEFAULT 'none'"),
        Column("experiments", "activations", "VARCHAR(64) NOT NULL DEFAULT '16'"),
        Column("experiments", "calibration", "VARCHAR(128)"),
        Column("attempts", "arithmetic", "VARCHAR(16)"),
        add_logarithms,
    ),
    3: (
        _make_site_records,
        "ALTER TABLE experiments ADD COLUMN gptq_hessian VARCHAR(16) NOT NULL DEFAULT 'original'",
        "ALTER TABLE experiments ADD COLUMN gptq_dead VARCHAR(16) NOT NULL DEFAULT 'nearest'",
    ),
    4: (
        "ALTER TABLE experiments ADD COLUMN run VARCHAR(256)",
        "ALTER TABLE experiments ADD COLUMN variant VARCHAR(256)",
        "ALTER TABLE experiments ADD COLUMN seed INTEGER",
        "ALTER TABLE experiments ADD COLUMN step INTEGER",
    ),
    5: (
        "ALTER TABLE experiments ADD COLUMN attention_bits INTEGER",
        "ALTER TABLE experiments ADD COLUMN kv VARCHAR(16) NOT NULL DEFAULT '16'",
    ),
    6: (_wider_formats,),
    7: ("ALTER TABLE attempts ADD COLUMN streamed BOOLEAN NOT NULL DEFAULT false",),
}


def migrate(connection: Connection, version: int) -> None:
    """Apply every step from `version` on. The caller commits: all of it happens, or nothing.

    The view is made anew: a server alters no column that a view reads.
    """
    connection.execute(text("DROP VIEW results"))
    for number in range(GREW - 1 if version == GREW else version, SCHEMA_VERSION):
        for step in STEPS[number]:
            _take(connection, step)
    connection.execute(text(RESULTS_VIEW))
    connection.execute(
        text("UPDATE kbit_meta SET value = :version WHERE key = 'schema_version'"),
        {"version": str(SCHEMA_VERSION)},
    )


def _take(connection: Connection, step: Step) -> None:
    if isinstance(step, str):
        connection.execute(text(step))
    elif isinstance(step, Column):
        known = {found["name"] for found in inspect(connection).get_columns(step.table)}
        if step.name not in known:
            name = connection.dialect.identifier_preparer.quote(step.name)
            connection.execute(text(f"ALTER TABLE {step.table} ADD COLUMN {name} {step.kind}"))
            for part in step.fill:
                _take(connection, part)
    else:
        step(connection)
