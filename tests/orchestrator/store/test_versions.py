"""Databases of every version that ever was are read and brought up to date; others are refused."""

import sqlite3

import pytest
from sqlalchemy import text

from kbit.cli import main
from orchestrator.store.migrate import GREW, STEPS
from orchestrator.store.reading import read_results
from orchestrator.store.schema import SCHEMA_VERSION, Base
from orchestrator.store.store import Store
from tests.orchestrator.store.older import added, make_older
from tests.orchestrator.store.test_store import experiment, result

SHAPES = [*((version, 0) for version in STEPS), *((GREW - 1, n) for n in range(1, len(STEPS[2])))]


def columns_of(store: Store) -> set[tuple[str, str]]:
    with store.engine.connect() as connection:
        query = "SELECT t.name, c.name FROM sqlite_master t, pragma_table_info(t.name) c"
        rows = connection.execute(text(f"{query} WHERE t.type = 'table'"))
        return {(table, column) for table, column in rows}


@pytest.mark.parametrize(("version", "taken"), SHAPES)
def test_every_older_shape_is_read_and_migrated_and_keeps_its_ids(tmp_path, version, taken):
    url = f"sqlite:///{tmp_path}/t.db"
    store = Store.create(url)
    store.record(result(4))
    whole = columns_of(store)
    make_older(store, version, taken)
    later = [*STEPS[version][taken:], *(s for v in STEPS if v > version for s in STEPS[v])]
    assert (columns_of(store) < whole) == any(map(added, later))  # others only widen
    store.close()
    before = (tmp_path / "t.db").read_bytes()
    rows = read_results(Store.open(url))
    assert rows["experiment_id"].tolist() == [experiment(4).id] and rows["value"].tolist() == [0.5]
    assert (tmp_path / "t.db").read_bytes() == before  # read without being changed
    migrated = Store.create(url)
    assert columns_of(migrated) == whole
    assert migrated.results()["limit"].tolist() == [3]
    migrated.record(result(3), result(4))  # what is stored stays, once
    found = Store.open(url).results()
    assert sorted(found["experiment_id"]) == sorted([experiment(3).id, experiment(4).id])


def test_what_was_known_before_is_not_guessed_again(tmp_path):
    """Databases of the version that grew take its steps again: those must not undo anything."""
    url = f"sqlite:///{tmp_path}/t.db"
    store = Store.create(url)
    store.record(result(4), result(4))
    store.record(result(3, status="dropped"))
    axes = "UPDATE attempts SET axes = 'total,nominal' WHERE status = 'dropped'"
    identity = "SELECT value FROM kbit_meta WHERE key = 'identity'"
    with store.engine.connect() as connection:
        connection.execute(text(axes))
        connection.commit()
        known = connection.scalar(text(identity))
    make_older(store, GREW)
    migrated = Store.create(url)
    with migrated.reading() as connection:
        assert connection.scalar(text(identity)) == known
        assert connection.scalars(text("SELECT attempt FROM measurements")).all() == [1]
    assert migrated.attempts()["axes"].dropna().tolist() == ["total,nominal"]


def test_every_change_has_a_version_of_its_own():
    """What has landed is not changed: a new column is a step of a new version."""
    assert [len(STEPS[version]) for version in range(1, 6)] == [3, 19, 3, 4, 2]
    assert list(STEPS) == list(range(1, SCHEMA_VERSION))
    later = {
        (table, column)
        for steps in STEPS.values()
        for table, column in filter(None, map(added, steps))
    }
    first = {
        (name, column.name)
        for name, table in Base.metadata.tables.items()
        for column in table.columns
        if (name, column.name) not in later and (name, "") not in later
    }
    assert len(first) == 51, "a column that no version adds"


@pytest.mark.parametrize("opening", ["status", "sweep"])
def test_a_database_that_lacks_a_column_is_refused_in_a_line(tmp_path, study, capsys, opening):
    store = Store.create(f"sqlite:///{tmp_path}/t.db")
    store.close()
    with sqlite3.connect(tmp_path / "t.db") as connection:
        connection.execute("DROP VIEW results")
        connection.execute("ALTER TABLE experiments DROP COLUMN scales")
    connection.close()
    command = [opening, "--db", str(tmp_path / "t.db")]
    assert main(command if opening == "status" else [*command, str(study)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "its table experiments lacks scales" in line
