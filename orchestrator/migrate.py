"""Bring a database that an older version wrote up to date, in one transaction."""

from __future__ import annotations

from sqlalchemy import Connection, text

from orchestrator.schema import SCHEMA_VERSION

# From version -> statements that lead to the next one. Columns are only ever added, so that a
# reader of the older version goes on working beside it.
STEPS: dict[int, tuple[str, ...]] = {
    1: (
        "ALTER TABLE attempts ADD COLUMN stage VARCHAR(16) NOT NULL DEFAULT 'full'",
        "ALTER TABLE attempts ADD COLUMN seconds_store FLOAT",
        "ALTER TABLE attempts ADD COLUMN git_commit VARCHAR(64)",
    ),
}


def migrate(connection: Connection, version: int) -> None:
    """Apply every step from `version` on. The caller commits: all of it happens, or nothing."""
    for step in range(version, SCHEMA_VERSION):
        for statement in STEPS[step]:
            connection.execute(text(statement))
    connection.execute(
        text("UPDATE kbit_meta SET value = :version WHERE key = 'schema_version'"),
        {"version": str(SCHEMA_VERSION)},
    )
