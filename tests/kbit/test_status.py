"""`kbit status` says whether a database is sound, and counts what sweeps did."""

import sqlite3
from pathlib import Path

import pytest

from kbit import cli
from kbit.record import store_measurements
from orchestrator.store.store import Store
from orchestrator.study.outcome import Status
from quantizers.setting import Setting
from tests.orchestrator.store.test_store import experiment, result


@pytest.fixture
def database(tmp_path: Path) -> Path:
    store = Store.create(f"sqlite:///{tmp_path}/t.db")
    store.record(result(4), result(3))
    store.close()
    return tmp_path / "t.db"


def status(database: Path, capsys) -> tuple[int, str, str]:
    code = cli.main(["status", "--db", str(database)])
    return code, *capsys.readouterr()


def test_a_sound_database_is_said_to_be(database, capsys):
    code, out, err = status(database, capsys)
    assert (code, err) == (
        0,
        f"database: sqlite:///{database}\n",
    ) and "verified: the database is sound" in out


SCORED_TWICE = """
INSERT INTO attempts (experiment, status, stage, finished_at, host, device, threads,
                      seconds_load, seconds_quantize, seconds_score, versions)
SELECT experiment, status, stage, finished_at, host, device, threads, 0, 0, 0, versions
FROM attempts WHERE number = 1
"""
WRONG = {
    "1 experiments were scored again": SCORED_TWICE,
    "2 experiments are done, but have no measurements": "DELETE FROM measurements",
    "1 experiments lack metrics": "INSERT INTO measurements SELECT experiment, protocol, "
    "'acc_norm', value, stderr, n_items, attempt FROM measurements WHERE experiment = 1",
    "1 experiments have scores of one task or corpus by several": "INSERT INTO measurements "
    "SELECT experiment, protocol, 'acc_norm', value, stderr, n_items, 2 FROM measurements "
    "WHERE experiment = 1",
    "rows refer to rows that are not there": "DELETE FROM protocols",
}


@pytest.mark.parametrize("problem", WRONG)
def test_what_is_wrong_is_said(database, capsys, problem):
    with sqlite3.connect(database) as connection:
        connection.execute(WRONG[problem])
    connection.close()
    code, out, err = status(database, capsys)
    assert code == 3 and problem in err and "verified" not in out


def test_a_damaged_file_is_said_to_be(database, capsys):
    content = bytearray(database.read_bytes())
    content[4096 * 3 : 4096 * 3 + 200] = b"\xff" * 200
    database.write_bytes(content)
    code, out, err = status(database, capsys)
    assert code == 3 and "verified" not in out
    assert err.startswith("error: sqlite:///") and "Traceback" not in err


def test_what_commands_measure_does_not_touch_what_sweeps_did(database, capsys):
    store = Store.create(f"sqlite:///{database}")
    store.record(result(5, Status.FAILED, error="RuntimeError: no"))
    before = status(database, capsys)
    entry = experiment().model
    ((_, measurement),) = result(4).measurements
    for bits in (16, 5):  # one that no sweep has, and one that failed
        store_measurements(store, entry, Setting.make(bits, "int"), "cpu", "CPU", [measurement])
    assert status(database, capsys) == before
    assert "1 failed" in before[1]
    assert store.batch_sizes() == {}


def test_matrices_where_gptq_did_worse_than_nearest_are_listed(database, capsys):
    assert "GPTQ did worse" not in status(database, capsys)[1]
    store, made = Store.create(f"sqlite:///{database}"), result(5)
    made.sites = {
        "h.0.q": {"loss": 1.0, "loss_nearest": 2.0, "damping": 0.01, "dead": 0},
        "h.0.o": {"loss": 3.0, "loss_nearest": 1.5, "damping": 0.1, "dead": 2},
        "h.0.up": {"maximum": 3.0, "policy": "token"},  # not one that GPTQ rounded
    }
    store.record(made)
    store.close()
    _, out, _ = status(database, capsys)
    assert "GPTQ did worse than nearest at 1 of 2 matrices it rounded" in out
    assert "  worse: m at 5-bit int B64: h.0.o: 3 against 1.5" in out
    assert cli.main(["status", "--db", str(database), "--worse", "--format", "csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[1].endswith("h.0.o,3.0,1.5")
