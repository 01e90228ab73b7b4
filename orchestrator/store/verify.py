"""Whether a database is whole, and holds exactly one set of measurements of an experiment."""

from __future__ import annotations

from sqlalchemy import Connection, text

from orchestrator.store.store import Store

# What is counted -> a query for how many experiments it befell; none in a sound database.
_CHECKS = {
    "have scores of one task or corpus by several attempts": """
        SELECT count(DISTINCT experiment) FROM (
            SELECT experiment FROM measurements WHERE attempt IS NOT NULL
            GROUP BY experiment, protocol HAVING count(DISTINCT attempt) > 1) twice""",
    "were scored again, as if by a second sweep": """
        SELECT count(DISTINCT a.experiment) FROM attempts a
        WHERE a.status = 'done' AND a.stage <> 'command'
          AND EXISTS (SELECT 1 FROM measurements m WHERE m.experiment = a.experiment)
          AND NOT EXISTS (SELECT 1 FROM measurements m WHERE m.experiment = a.experiment
                          AND (m.attempt = a.number OR m.attempt IS NULL))""",
    "are done, but have no measurements": """
        SELECT count(DISTINCT a.experiment) FROM attempts a
        WHERE a.status = 'done'
          AND NOT EXISTS (SELECT 1 FROM measurements m WHERE m.experiment = a.experiment)""",
    "lack metrics that others have of the same task or corpus": """
        SELECT count(DISTINCT sets.experiment) FROM (
            SELECT m.experiment, m.protocol, count(*) AS metrics
            FROM measurements m JOIN experiments e ON e.number = m.experiment
            WHERE e.source = 'kbit' GROUP BY m.experiment, m.protocol) sets
        JOIN (SELECT protocol, count(DISTINCT metric) AS metrics
              FROM measurements GROUP BY protocol) whole ON whole.protocol = sets.protocol
        WHERE sets.metrics < whole.metrics""",
}


def problems(store: Store) -> list[str]:
    """What is wrong with a database, a line each; [] is nothing.

    The file's integrity is checked for SQLite; a server answers for its own.
    """
    with store.reading() as connection:
        found = _damage(connection) if connection.dialect.name == "sqlite" else []
        for what, query in _CHECKS.items():
            if n := connection.scalar(text(query)):
                found.append(f"{n} experiments {what}")
    return found


def _damage(connection: Connection) -> list[str]:
    answers = connection.scalars(text("PRAGMA integrity_check(5)")).all()
    found = [f"the file is damaged: {' '.join(line.split())}" for line in answers if line != "ok"]
    loose = len(connection.execute(text("PRAGMA foreign_key_check")).all())
    return [*found, *([f"{loose} rows refer to rows that are not there"] if loose else [])]
