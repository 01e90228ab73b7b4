"""The database: what is recorded comes back, twice is once, foreign files are refused."""

import math
import multiprocessing
import sqlite3
import uuid
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import create_engine, inspect, select, text

from evaluation.measurement import Measurement, Metric
from orchestrator.errors import InputError, SweepStopped
from orchestrator.store import migrate
from orchestrator.store.engine import connect, schema_version
from orchestrator.store.measured import missing_protocols
from orchestrator.store.reading import read_results, read_site_records
from orchestrator.store.schema import RESULT_COLUMNS, MeasurementRow
from orchestrator.store.store import Store
from orchestrator.study.experiment import Experiment, Protocol
from orchestrator.study.job import Job, JobResult
from orchestrator.study.models import ModelEntry
from orchestrator.study.outcome import Cause, Failure, Status
from quantizers.setting import Setting
from quantizers.size import ModelBits
from tests.orchestrator.store.older import make_older

PROTOCOL = Protocol("sotu_blank", "task", {"version": 1, "limit": 3}, "sotu_blank")


def experiment(bits: int = 4, name: str = "m") -> Experiment:
    setting = Setting.make(bits=bits, data_type="int", block_size=64)
    entry = ModelEntry(family="f", name=name, hub=f"hub/{name}", n_params=1000)
    return Experiment(entry, "main", setting, "float32")


def result(bits: int = 4, status: str = "done", value: float = 0.5, error=None) -> JobResult:
    scores = np.array([0.0, 1.0, 1.0], dtype=np.float32)
    measurement = Measurement(
        "sotu_blank", PROTOCOL.settings, (Metric("acc", value, 0.1, 3),), {"acc": scores}
    )
    done = status == "done"
    return JobResult(
        Job(experiment(bits), [PROTOCOL], "cpu", 1),
        status,
        error=error,
        bits=ModelBits(1000, 4250, 4000, 4250.0, 4.25) if done else None,
        measurements=[(PROTOCOL, measurement)] if done else [],
    )


@pytest.fixture(scope="session")
def postgres():
    from tests.orchestrator.postgres import server

    with server() as pattern:
        yield pattern


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """A new database on each backend."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/deep/test.db"
    pattern, name = request.getfixturevalue("postgres"), f"t{uuid.uuid4().hex}"
    admin = create_engine(pattern.format("postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    admin.dispose()
    return pattern.format(name)


def scored_in_batches_of(size: int, bits: int, protocol: Protocol = PROTOCOL, stage="full"):
    made = result(bits)
    made.job.stage, made.tokens_per_batch = stage, size
    made.measurements = [(protocol, measurement) for _, measurement in made.measurements]
    return made


class TestStore:
    """What the store promises, on every backend."""

    def test_only_what_is_asked_for_is_discarded_for_smaller_batches(self, url):
        store, other = Store.create(url), Protocol("other", "task", {}, "other")
        store.record(
            scored_in_batches_of(100, 3),
            scored_in_batches_of(100, 4),
            scored_in_batches_of(100, 5),
            scored_in_batches_of(100, 4, other),
            scored_in_batches_of(100, 6, stage="screen"),
            scored_in_batches_of(50, 6, other),
        )
        asked = {experiment(bits).id: {PROTOCOL.id} for bits in (3, 4, 6)}
        assert store.discard_larger_batches("full", asked) == 2
        left = {(5, PROTOCOL.id), (4, other.id), (6, PROTOCOL.id), (6, other.id)}
        assert store.stored_measurements() == {(experiment(b).id, p) for b, p in left}
        assert store.batch_sizes() == {("m", "float32"): 50}
        assert store.discard_larger_batches("full", asked) == 0  # once
        with pytest.raises(KeyError):
            store.item_scores(experiment(3).id, PROTOCOL.task, "acc")

    def test_what_was_found_of_matrices_is_that_of_the_newest_attempt(self, url):
        store, made = Store.create(url), result()
        for loss in (2.0, 1.0):
            made.sites = {"h.0.q": {"loss": loss, "policy": "token"}, "h.0.o": {"loss": math.nan}}
            store.record(made)
        records = read_site_records(store, ["loss", "policy"])
        assert records["bits"].unique().tolist() == [4]
        found = records.set_index(["site", "quantity"])[["value", "label"]]
        assert found.loc[("h.0.q", "loss"), "value"] == 1.0
        assert found.loc[("h.0.q", "policy"), "label"] == "token"
        assert math.isnan(found.loc[("h.0.o", "loss"), "value"]) and len(found) == 3

    def test_recorded_result_comes_back_in_the_flat_view(self, url):
        store = Store.create(url)
        store.record(result())
        row = store.results().iloc[0]
        assert tuple(store.results().columns) == RESULT_COLUMNS
        assert (row.model, row.bits, row.total_bits, row.task, row.metric) == (
            "m", 4, 4250, "sotu_blank", "acc",
        )  # fmt: skip
        assert (row.value, row.stderr, row.n_items) == (0.5, 0.1, 3)
        assert (row.protocol, row.limit) == (PROTOCOL.id, 3)
        assert pd.isna(row.context) and pd.isna(row.max_tokens)  # the model's own; no corpus
        assert store.item_scores(experiment().id, "sotu_blank", "acc").tolist() == [0, 1, 1]

    def test_bulk_reads_are_the_view(self, url):
        store = Store.create(url)
        corpus = Protocol("sotu", "corpus", {"context": 64, "max_tokens": 1000}, "sotu")
        other = result(3)
        other.measurements = [(corpus, other.measurements[0][1])]
        store.record(result(4), other, result(16))
        key = ["bits", "task"]
        view, read = (rows.sort_values(key, ignore_index=True) for rows in
                      (store.results(), read_results(store)))  # fmt: skip
        pd.testing.assert_frame_equal(view, read)
        assert view["max_tokens"].tolist() == [1000, pd.NA, pd.NA]
        only = read_results(store, {("sotu", "acc")})
        assert only["protocol"].tolist() == [corpus.id] and only["context"].tolist() == [64]

    def test_recording_again_changes_nothing(self, url):
        store = Store.create(url)
        store.record(result(value=0.5))
        store.record(result(value=0.9), result(value=0.8))
        assert store.results()["value"].tolist() == [0.5]
        assert attempts_of_measurements(store) == [1]  # the one that measured it

    def test_missing_work_is_what_is_not_measured(self, url):
        store = Store.create(url)
        store.record(result(4))
        other = Protocol("sotu", "corpus", {"max_tokens": 9}, "sotu")
        asked = [(experiment(bits), [PROTOCOL, other]) for bits in (4, 3)]
        missing = missing_protocols(asked, store.stored_measurements())
        assert [(e.setting.bits, [p.task for p in ps]) for e, ps in missing] == [
            (4, ["sotu"]),
            (3, ["sotu_blank", "sotu"]),
        ]

    def test_a_failure_is_of_what_was_asked_and_has_a_cause(self, url):
        """One protocol fails, another has scores; the third was never asked for."""
        store = Store.create(url)
        absent, never = (Protocol(n, "task", {"version": 1}, n) for n in ("absent", "never"))
        partly = result(3)
        partly.job.protocols.append(absent)
        partly.status, partly.error = Status.FAILED, "ValueError: no file"
        partly.failures = {absent.id: Failure(Cause.DATA, "ValueError: no file")}
        whole = result(4, status="failed", error="RuntimeError: no such layer")
        store.record(partly, whole)
        assert store.failures() == {
            (experiment(3).id, absent.id): Failure(Cause.DATA, "ValueError: no file"),
            (experiment(4).id, PROTOCOL.id): Failure(Cause.ASKED, "RuntimeError: no such layer"),
        }
        asked = [(experiment(bits), [PROTOCOL, absent, never]) for bits in (3, 4)]
        left = missing_protocols(asked, store.stored_measurements() | set(store.failures()))
        assert [[p.task for p in protocols] for _, protocols in left] == [
            ["never"],
            ["absent", "never"],
        ]

    def test_failures_are_stored_until_a_later_attempt_succeeds(self, url):
        store = Store.create(url)
        store.record(result(status="failed", error="ValueError: broken"))
        assert store.failed_experiments() == {experiment().id: "ValueError: broken"}
        store.record(result())
        assert store.failed_experiments() == {}
        assert store.attempts()["status"].tolist() == ["failed", "done"]
        assert store.results()["total_bits"].tolist() == [4250]  # unknown when it failed

    def test_attempts_record_what_they_cost(self, url):
        store = Store.create(url)
        done = result()
        done.peak_memory, done.git_commit, done.versions = 1 << 34, "abc", {"torch": "2"}
        store.record(done)
        attempt = store.attempts().iloc[0]
        assert (attempt.peak_memory, attempt.git_commit, attempt.stage) == (1 << 34, "abc", "full")
        assert attempt.versions == {"torch": "2"}
        assert 0 < attempt.seconds_store < 10

    def test_diverged_model_is_a_result(self, url):
        store = Store.create(url)
        store.record(result(4, value=float("nan")), result(3, value=float("inf")))
        values = store.results().set_index("bits")["value"]
        assert np.isnan(values[4]) and np.isinf(values[3])

    def test_readers_and_the_writer_do_not_wait_for_each_other(self, url):
        store = Store.create(url)
        store.record(result(4))
        count = text("SELECT count(*) FROM results")
        with Store.open(url).engine.connect() as reader:
            assert reader.execute(count).scalar() == 1
            store.record(result(3))  # beside an open read transaction
            reader.rollback()
            assert reader.execute(count).scalar() == 2

    def test_a_failed_transaction_leaves_nothing(self, url, monkeypatch):
        store = Store.create(url)
        store.record(result(4))
        bad = result(3)
        bad.host = None  # the column refuses it, after everything else was written
        with pytest.raises(SweepStopped, match="cannot be written"):
            store.record(result(5), bad)
        assert store.results()["bits"].tolist() == [4]
        store.record(result(5))
        assert sorted(store.results()["bits"]) == [4, 5]

    def test_one_sweep_at_a_time(self, url):
        store, other = Store.create(url), Store.create(url)
        refusal = pytest.raises(InputError, match="is writing to it")
        with store.lock(), refusal, other.lock():
            pass
        with other.lock():
            pass

    def test_eight_processes_lose_nothing(self, url):
        Store.create(url)
        with ProcessPoolExecutor(8, mp_context=multiprocessing.get_context("fork")) as pool:
            list(pool.map(_record_some, [url] * 8, range(8)))
        store = Store.open(url)
        assert len(store.attempts()) == 8 * 14
        assert len(store.results()) == 14

    def test_older_schema_is_migrated_when_written(self, url):
        store = Store.create(url)
        store.record(result(4))
        make_older(store, 1)
        if url.startswith("sqlite"):  # read as if it were
            assert read_results(Store.open(url))["limit"].tolist() == [3]
        else:
            with pytest.raises(InputError, match="schema version 1 is older"):
                Store.open(url)
        assert schema_version(Store(connect(url)).engine, url) == 1  # the file is as it was
        migrated = Store.create(url)
        row = migrated.results().iloc[0]
        assert (row.value, row.limit) == (0.5, 3)
        assert (row.experiment_id, row.protocol) == (experiment(4).id, PROTOCOL.id)
        assert migrated.attempts()["stage"].tolist() == ["full"]
        assert attempts_of_measurements(migrated) == [1]
        migrated.record(result(3))
        assert len(Store.open(url).attempts()) == 2

    def test_a_column_for_every_field_of_a_setting_and_fractions_of_bits(self, url):
        store = Store.create(url)
        store.record(result(4))
        store.record(result(3))
        stored = store.results()
        assert [type(bits) for bits in stored["bits"].tolist()] == [int, int]
        for read in (stored, read_results(store), store.attempts()):
            settings = {Setting.from_row(row) for row in read.to_dict("records")}
            assert settings == {experiment(4).setting, experiment(3).setting}
        with store.engine.connect() as connection:
            connection.execute(text("UPDATE experiments SET bits = 1.58 WHERE bits = 3"))
            connection.commit()
        for read in (store.results(), read_results(store)):
            assert sorted(read["bits"]) == [1.58, 4] and str(read["bits"].max()) == "4"

    def test_newer_schema_is_refused_and_left_alone(self, url):
        store = Store.create(url)
        with store.engine.connect() as connection:
            connection.execute(
                text("UPDATE kbit_meta SET value = '999' WHERE key = 'schema_version'")
            )
            connection.commit()
        for opening in (Store.create, Store.open):
            with pytest.raises(InputError, match="schema version 999"):
                opening(url)

    def test_a_whole_sweep(self, url, study, capsys):
        from orchestrator.sweep import main

        command = [str(study), "--db", url, "--executor", "local"]
        assert main(command) == 0
        assert Store.open(url).results()["experiment_id"].nunique() == 3
        assert main(command) == 0
        assert "3 stored, 0 to do" in capsys.readouterr().out


def test_a_database_that_is_gone_ends_a_sweep_in_one_line(postgres, study, capsys):
    from orchestrator.sweep import main
    from tests.orchestrator.faulty import FaultyWorker

    name = f"t{uuid.uuid4().hex}"
    admin = create_engine(postgres.format("postgres"), isolation_level="AUTOCOMMIT")

    class Cuts(FaultyWorker):
        """Its second job ends with every connection of the database cut, and none let in."""

        def run(self, job: Job) -> JobResult:
            if job.experiment.setting.bits == 4:
                with admin.connect() as connection:
                    connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
                    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "
                    connection.execute(text(f"{cut}'{name}'"))
            return super().run(job)

    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    url = postgres.format(name)
    store = Store.create(url)
    command = [str(study), "--db", url, "--executor", "local"]
    assert main(command, lambda: Cuts({}, study)) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "error: postgresql" in error
    for read in (store.stored_measurements, store.attempts, store.results):
        with pytest.raises(SweepStopped, match="cannot be read") as stopped:
            read()
        assert "\n" not in str(stopped.value)
    with admin.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
    assert main(command, lambda: FaultyWorker({}, study)) == 0
    assert Store.open(url).results()["experiment_id"].nunique() == 3
    admin.dispose()


def test_a_driver_that_lost_its_lock_writes_no_more(postgres):
    """The server ended its session; another driver came in between."""
    name = f"t{uuid.uuid4().hex}"
    admin = create_engine(postgres.format("postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    url = postgres.format(name)
    first, second = Store.create(url), Store.create(url)
    with first.lock():
        first.record(result(4))
        with admin.connect() as connection:
            cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "
            connection.execute(text(f"{cut}'{name}'"))
        second.engine.dispose()
        with second.lock():
            second.record(result(3))
            for _ in range(2):  # nor with a connection made anew
                with pytest.raises(SweepStopped, match="cannot be written|lock is lost") as stopped:
                    first.record(result(5))
                assert "\n" not in str(stopped.value)
    assert sorted(Store.open(url).results()["bits"]) == [3, 4]
    admin.dispose()


def attempts_of_measurements(store: Store) -> list[int | None]:
    with store.reading() as connection:
        query = select(MeasurementRow.attempt).order_by(MeasurementRow.attempt)
        return list(connection.scalars(query))


def _record_some(url: str, _process: int) -> None:
    store = Store.create(url)
    for bits in range(2, 16):
        store.record(result(bits))


def test_a_failed_migration_changes_nothing(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/t.db"
    store = Store.create(url)
    make_older(store, 1)
    broken = {1: (*migrate.STEPS[1][:2], "ALTER TABLE nowhere ADD COLUMN x INTEGER")}
    with monkeypatch.context() as patch:
        patch.setattr(migrate, "STEPS", broken)
        with pytest.raises(InputError, match="nowhere"):
            Store.create(url)
    assert "stage" not in {c["name"] for c in inspect(store.engine).get_columns("attempts")}
    Store.create(url)
    Store.open(url)


def test_plain_sql_works_while_a_writer_is_at_work(tmp_path):
    store = Store.create(f"sqlite:///{tmp_path}/t.db")
    store.record(result(4))
    reader = sqlite3.connect(tmp_path / "t.db")
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM results").fetchone() == (1,)
    store.record(result(3))  # an open reader does not block it
    reader.execute("COMMIT")
    assert reader.execute("SELECT count(*) FROM results").fetchone() == (2,)


def test_password_is_never_shown():
    with pytest.raises(InputError) as error:
        Store.open("postgresql+psycopg://me:secret@127.0.0.1:1/none?connect_timeout=2")
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


def test_foreign_files_are_refused_in_one_line(tmp_path):
    foreign = tmp_path / "foreign.db"
    sqlite3.connect(foreign).execute("CREATE TABLE t (x)").connection.commit()
    text = tmp_path / "text.db"
    text.write_text("this is no database, but long enough to look at" * 100)
    for path, message in [(foreign, "not a kbit database"), (text, "not a usable database")]:
        before = path.read_bytes()
        for opening in (Store.create, Store.open):
            with pytest.raises(InputError, match=message) as error:
                opening(f"sqlite:///{path}")
            assert "\n" not in str(error.value)
        assert path.read_bytes() == before
    with pytest.raises(InputError, match="no such database"):
        Store.open(f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(InputError, match="not a usable database"):
        Store.open("nosuchdialect://x")
