"""Databases as older versions made them: today's, less what migrations since have added."""

import re
from collections.abc import Iterator

from sqlalchemy import text

from orchestrator.store import migrate
from orchestrator.store.migrate import STEPS, Column, Step
from orchestrator.store.schema import SCHEMA_VERSION
from orchestrator.store.store import Store

_TABLES = {migrate._make_failures: "failures", migrate._make_site_records: "site_records"}
_VIEW = """
CREATE VIEW results AS
SELECT e.source, e.id AS experiment_id, p.task, m.metric, m.value, m.stderr, m.n_items
FROM measurements m
JOIN experiments e ON e.number = m.experiment
JOIN protocols p ON p.number = m.protocol
"""  # shortened
_WITHOUT_ATTEMPTS = (
    """CREATE TABLE before AS
       SELECT experiment, protocol, metric, value, stderr, n_items FROM measurements""",
    "DROP TABLE measurements",
    "ALTER TABLE before RENAME TO measurements",
    "CREATE UNIQUE INDEX measured ON measurements (experiment, protocol, metric)",
)


def added(step: Step) -> tuple[str, str] | None:
    """(table, column) that a step adds; ("table", "") for a whole one; None for neither."""
    if isinstance(step, Column):
        return step.table, step.name
    if isinstance(step, str):
        found = re.match(r'ALTER TABLE (\w+) ADD COLUMN "?(\w+)', step)
        return (found[1], found[2]) if found else None
    return (_TABLES[step], "") if step in _TABLES else None


def make_older(store: Store, version: int, taken: int = 0) -> None:
    """Take from a database of today what came after `version`, but for the first `taken` of the
    steps that lead from it to the next one."""
    late = [
        *STEPS[version][taken:],
        *(s for v in range(version + 1, SCHEMA_VERSION) for s in STEPS[v]),
    ]
    with store.engine.connect() as connection:
        connection.execute(text("DROP VIEW results"))
        for statement in _undoing(late):
            connection.execute(text(statement))
        if connection.dialect.name == "postgresql" and migrate._bits_as_numbers in late:
            connection.execute(text("ALTER TABLE experiments ALTER COLUMN bits TYPE INTEGER"))
        if migrate._give_identity in late:
            connection.execute(text("DELETE FROM kbit_meta WHERE key = 'identity'"))
        connection.execute(text(_VIEW))
        named = version + 1 if taken else version  # the version that grew had its number at once
        change = f"UPDATE kbit_meta SET value = '{named}' WHERE key = 'schema_version'"
        connection.execute(text(change))
        connection.commit()


def _undoing(steps: list[Step]) -> Iterator[str]:
    for table, column in filter(None, map(added, steps)):
        if (table, column) == ("measurements", "attempt"):  # refers to another: is not dropped
            yield from _WITHOUT_ATTEMPTS
        elif column:
            yield f'ALTER TABLE {table} DROP COLUMN "{column}"'
        else:
            yield f"DROP TABLE {table}"
