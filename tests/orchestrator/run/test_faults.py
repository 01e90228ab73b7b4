"""What a sweep survives, with real Ray, real processes and real kills."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import event

from kbit import cli
from orchestrator.store.store import Store
from orchestrator.sweep import main
from tests.orchestrator import faulty, processes

STUDY = """
models: [sotu-neox-32x2]
grids:
  - {bits: 16}
  - {bits: [8, 7, 6, 5, 4, 3, 2], data_type: [float, int], block_size: [64, 128, 256]}
tasks: [sotu_blank]
limit: 20
compute: {workers: 2, timeout: 4}
"""
EXPERIMENTS = 43
RAY_PORTS = {6379, 8265, 10001, 52365}  # what `ray start` and `ray job submit` want


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


def store_of(study: Path) -> Store:
    return Store.open(f"sqlite:///{study.parent}/t.db")


def check_complete(study: Path, count: int = EXPERIMENTS) -> None:
    results = store_of(study).results()
    assert results["experiment_id"].nunique() == count
    assert not results.duplicated(["experiment_id", "task", "metric"]).any()
    database = sqlite3.connect(study.parent / "t.db")
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert database.execute("SELECT count(*) FROM item_scores").fetchone() == (count,)


def run_in_process(study: Path, *options: str, faults: str = "none") -> int:
    """The same program without Ray, here: for what happens to the database."""
    worker = partial(faulty.FaultyWorker, faulty.parse(faults), study.parent / "t.db")
    arguments = [str(study), "--db", str(study.parent / "t.db"), "--executor", "local", *options]
    return main(arguments, worker)


def kill_all_workers_then_interrupt(process, folder):
    for pid in processes.processes_of(folder, "ray::Actor"):
        os.kill(pid, signal.SIGKILL)
    assert processes.wait_until(lambda: process.stdout.readline().startswith("lost: "))
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: everyone in the group


def interrupt_twice(process, folder):
    os.killpg(process.pid, signal.SIGINT)
    assert processes.wait_until(lambda: "finishing" in process.stdout.readline())
    os.killpg(process.pid, signal.SIGINT)


def kill_driver(process, folder):
    process.kill()


def kill_raylet(process, folder):
    for pid in processes.processes_of(folder, "/raylet/raylet"):
        os.kill(pid, signal.SIGKILL)


def kill_cluster(process, folder):
    for pid in processes.processes_of(folder):
        if pid != process.pid:
            os.kill(pid, signal.SIGKILL)


DISASTERS = [
    (kill_driver, {-signal.SIGKILL}),
    (kill_all_workers_then_interrupt, {130}),
    (interrupt_twice, {130}),
    (kill_cluster, {3}),
    # Without its raylet a node's workers may live on until they are through.
    (kill_raylet, {3, 0}),
]


@pytest.mark.slow
def test_one_disaster_after_another(study, folder, capsys):
    """The same command, again and again: each run loses at most what was in flight."""
    stored = 0
    for disaster, exit_codes in DISASTERS:
        process = processes.start(folder, study, KBIT_JOB_SECONDS="0.6")
        enough = partial(processes.has_attempts, study, stored + 2)
        if not processes.wait_until(enough):
            process.kill()
            pytest.fail(f"no results before {disaster.__name__}:\n{process.communicate()[0]}")
        if stored == 0:  # the same database by mistake: the second driver is refused
            assert run_in_process(study) == 2
            assert f"process {process.pid}" in capsys.readouterr().err
        done = len(store_of(study).results())
        disaster(process, folder)
        output, _ = process.communicate(timeout=60)
        assert process.returncode in exit_codes, (disaster, output)
        assert processes.left_after(folder, 10) == {}, disaster
        stored = processes.attempts(study)
        results = store_of(study).results()
        assert len(results) == results["experiment_id"].nunique() >= done
    assert run_in_process(study) == 0
    check_complete(study)


def test_driver_is_killed_and_workers_die_hang_or_poison(study, folder, capsys):
    """A private cluster dies with its driver, and has left Ray's usual ports to others."""
    text = study.read_text().replace("[8, 7, 6, 5, 4, 3, 2]", "[7, 5, 8, 6, 3, 4]")
    study.write_text(text.replace("[64, 128, 256]", "64").replace("[float, int]", "float"))
    driver = processes.start(folder, study, KBIT_JOB_SECONDS="4")  # time to look around
    assert processes.wait_until(partial(processes.has_attempts, study, 1))
    taken = processes.ports_of(folder)
    driver.kill()
    driver.communicate()
    assert processes.left_after(folder, 10) == {}
    assert len(taken) > 5 and not taken & RAY_PORTS
    assert 1 <= processes.attempts(study) <= 3
    faults = "kill=8,hang=6,poison=3,cuda=4"
    process = processes.start(folder, study, faults, KBIT_JOB_SECONDS="0.6")  # no batches
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 1, output
    assert processes.left_after(folder) == {}
    attempts = store_of(study).attempts()
    outcomes = {bits: list(rows["status"]) for bits, rows in attempts.groupby("bits")}
    assert outcomes[8] == outcomes[6] == outcomes[4] == ["lost", "done"]
    assert attempts[attempts["bits"] == 4]["host"].nunique() == 2  # a process of its own each
    assert outcomes[3] == ["lost", "lost", "failed"]
    assert "no result within 4 s" in attempts[attempts["bits"] == 6]["error"].iloc[0]
    lost = attempts[(attempts["status"] != "done") & (attempts["bits"] != 4)]
    assert (lost["host"] == socket.gethostname()).all() and (lost["device"] != "").all()
    assert lost["versions"].map(lambda versions: "torch" in versions).all()
    capsys.readouterr()
    assert cli.main(["status", "--db", str(study.parent / "t.db")]) == 0
    assert "failed: sotu-neox-32x2 at 3 bit: worker lost 3 times" in capsys.readouterr().out
    assert run_in_process(study) == 1
    assert run_in_process(study, "--retry-failed") == 0
    check_complete(study, 7)


class InterruptedWorker(faulty.FaultyWorker):
    """Meets Ctrl-C in its third experiment."""

    def __init__(self, times: int) -> None:
        super().__init__({}, Path())
        self.times, self.jobs = times, 0

    def run(self, job):
        self.jobs += 1
        for _ in range(self.times if self.jobs == 3 else 0):
            signal.raise_signal(signal.SIGINT)
        return super().run(job)


@pytest.mark.parametrize(("times", "stored"), [(1, 3), (2, 2)])
def test_interrupted_once_it_finishes_what_is_in_flight_twice_it_stops(study, times, stored):
    arguments = [str(study), "--db", str(study.parent / "t.db"), "--executor", "local"]
    assert main(arguments, partial(InterruptedWorker, times)) == 130
    assert len(store_of(study).results()) == stored
    assert run_in_process(study) == 0
    check_complete(study)


@pytest.mark.slow
def test_worker_that_exhausts_memory_is_replaced(study, folder):
    """Ray's own monitor ends it, at a limit a little above what the machine uses now."""
    import psutil

    text = study.read_text().replace("[8, 7, 6, 5, 4, 3, 2]", "3").replace("[64, 128, 256]", "64")
    study.write_text(text.replace("timeout: 4", "timeout: 60"))
    memory = psutil.virtual_memory()
    threshold = (memory.total - memory.available + 2.5e9) / memory.total
    if threshold > 0.95:
        pytest.skip("less than 2.5 GB of memory free")
    process = processes.start(
        folder, study, "memory=3",
        RAY_memory_usage_threshold=f"{threshold:.3f}", RAY_memory_monitor_refresh_ms="100",
    )  # fmt: skip
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 0, output
    lost = store_of(study).attempts().query("status == 'lost'")
    assert lost["error"].str.contains("memory", case=False).any(), list(lost["error"])
    check_complete(study, 3)


@pytest.mark.parametrize(
    ("pragma", "reason"),
    [
        ("PRAGMA max_page_count = 1", "disk is full"),  # no page more than there are
        ("PRAGMA query_only = ON", "readonly"),
    ],
)
def test_database_that_takes_no_more(study, monkeypatch, capsys, pragma, reason):
    record = Store.record

    def breaking(self, *results):
        if len(self.results()) == 3:
            pool = self.writer._engine.pool  # a connection for each transaction
            event.listen(pool, "connect", lambda raw, _: raw.execute(pragma))
        record(self, *results)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "record", breaking)
        assert run_in_process(study) == 3
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1
    assert len(store_of(study).results()) == 3
    assert run_in_process(study) == 0
    check_complete(study)


HOLD = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize("seconds", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_database_locked_by_another_process(study, seconds):
    """Longer than SQLite's own patience of five seconds."""
    path = study.parent / "t.db"
    Store.create(f"sqlite:///{path}")
    command = [sys.executable, "-c", HOLD, path, str(seconds)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    assert run_in_process(study) == 0
    holder.wait()
    check_complete(study)
