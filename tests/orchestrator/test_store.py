"""The database: what is recorded comes back, twice is once, foreign files are refused."""

import sqlite3

import numpy as np
import pytest

from evaluation.measurement import Measurement, Metric
from orchestrator.errors import InputError
from orchestrator.grid import Experiment, Protocol
from orchestrator.job import Job, JobResult
from orchestrator.models import ModelEntry
from orchestrator.schema import RESULT_COLUMNS
from orchestrator.store import Store, missing_protocols, pack_scores, unpack_scores
from quantizers.config import QuantConfig
from quantizers.model import ModelBits

PROTOCOL = Protocol("sotu_blank", "task", {"version": 1, "limit": 3}, "sotu_blank")


def experiment(bits: int = 4, name: str = "m") -> Experiment:
    config = QuantConfig.make(bits=bits, data_type="int", block_size=64)
    entry = ModelEntry(family="f", name=name, hub=f"hub/{name}", n_params=1000)
    return Experiment(entry, "main", config, "float32")


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


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/deep/test.db"


def test_recorded_result_comes_back_in_the_flat_view(url):
    store = Store.create(url)
    store.record(result())
    row = store.results().iloc[0]
    assert tuple(store.results().columns) == RESULT_COLUMNS
    assert (row.model, row.bits, row.total_bits, row.task, row.metric) == (
        "m", 4, 4250, "sotu_blank", "acc",
    )  # fmt: skip
    assert (row.value, row.stderr, row.n_items) == (0.5, 0.1, 3)
    assert store.item_scores(experiment().id, "sotu_blank", "acc").tolist() == [0, 1, 1]


def test_recording_again_changes_nothing(url):
    store = Store.create(url)
    store.record(result(value=0.5))
    store.record(result(value=0.9))
    assert store.results()["value"].tolist() == [0.5]


def test_missing_work_is_what_is_not_measured(url):
    store = Store.create(url)
    store.record(result(4))
    other = Protocol("sotu", "corpus", {"max_tokens": 9}, "sotu")
    missing = missing_protocols(
        [experiment(4), experiment(3)], {"m": [PROTOCOL, other]}, store.stored_measurements()
    )
    assert [(e.config.bits, [p.task for p in ps]) for e, ps in missing] == [
        (4, ["sotu"]),
        (3, ["sotu_blank", "sotu"]),
    ]


def test_failures_are_stored_until_a_later_attempt_succeeds(url):
    store = Store.create(url)
    store.record(result(status="failed", error="ValueError: broken"))
    assert store.failed_experiments() == {experiment().id: "ValueError: broken"}
    store.record(result())
    assert store.failed_experiments() == {}
    assert store.attempts()["status"].tolist() == ["failed", "done"]


def test_diverged_model_is_a_result(url):
    store = Store.create(url)
    store.record(result(4, value=float("nan")))
    store.record(result(3, value=float("inf")))
    values = store.results().set_index("bits")["value"]
    assert np.isnan(values[4]) and np.isinf(values[3])


def test_plain_sql_works_while_a_writer_is_at_work(url):
    store = Store.create(url)
    store.record(result(4))
    reader = sqlite3.connect(url.removeprefix("sqlite:///"))
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM results").fetchone() == (1,)
    store.record(result(3))  # an open reader does not block it
    reader.execute("COMMIT")
    assert reader.execute("SELECT count(*) FROM results").fetchone() == (2,)


def test_scores_are_packed_without_loss():
    scores = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    assert np.array_equal(unpack_scores(pack_scores(scores)), scores)


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


def test_other_schema_version_is_refused(url):
    Store.create(url)
    database = sqlite3.connect(url.removeprefix("sqlite:///"))
    database.execute("UPDATE kbit_meta SET value = '999' WHERE key = 'schema_version'")
    database.commit()
    with pytest.raises(InputError, match="schema version 999"):
        Store.create(url)
