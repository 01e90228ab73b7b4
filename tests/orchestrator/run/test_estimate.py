"""Worker-hours from earlier rows: like is compared with like."""

import pytest

from orchestrator.run.estimate import ITEM_TOKENS, estimate, measured_rates, newest_dtype
from orchestrator.store.store import Store
from orchestrator.study.experiment import Experiment, Protocol
from tests.orchestrator.store.test_store import PROTOCOL, experiment, result


def timed(bits: int, score: float, status: str = "done", dtype: str = "float32"):
    """An attempt at 3 items: a second around it, `score` seconds on them."""
    made = result(bits)
    made.job.experiment = in_dtype(bits, dtype)
    made.status, made.seconds_load, made.seconds_quantize = status, 0.75, 0.25
    made.seconds_score = score
    if status != "done":
        made.measurements = []
    return made


def in_dtype(bits: int, dtype: str, name: str = "m") -> Experiment:
    made = experiment(bits, name)
    return Experiment(made.model, made.revision, made.setting, dtype)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.create(f"sqlite:///{tmp_path}/t.db")


def seconds(store: Store, experiment: Experiment, *protocols: Protocol) -> float | None:
    found = estimate(measured_rates(store), [(experiment, list(protocols))])
    return None if found is None else 3600 * found.hours


def test_only_attempts_that_were_done_count(store):
    assert seconds(store, experiment(5), PROTOCOL) is None
    store.record(timed(4, 6), timed(3, 8), timed(3, 1000, "lost"), timed(5, 1000, "outgrown"))
    assert seconds(store, experiment(5), PROTOCOL) == pytest.approx(1 + 7)


def test_another_protocol_counts_by_its_size(store):
    store.record(timed(4, 6))
    settings = PROTOCOL.settings | {"limit": 300}
    larger = Protocol("sotu_blank", "task", settings, "sotu_blank")
    assert seconds(store, experiment(5), larger) == pytest.approx(1 + 600)
    corpus = Protocol("sotu", "corpus", {"max_tokens": 30 * ITEM_TOKENS}, "sotu")
    assert seconds(store, experiment(5), PROTOCOL, corpus) == pytest.approx(1 + 6 + 60)
    whole = Protocol("other", "task", {"limit": None}, "other")  # as large as the others are
    assert seconds(store, experiment(5), whole) == pytest.approx(1 + 6)


def test_compute_dtypes_are_kept_apart(store):
    store.record(timed(4, 6), timed(4, 60, dtype="float16"))
    assert seconds(store, in_dtype(5, "float16"), PROTOCOL) == pytest.approx(61)
    assert seconds(store, in_dtype(5, "float32"), PROTOCOL) == pytest.approx(7)
    assert seconds(store, in_dtype(5, "bfloat16"), PROTOCOL) is None
    assert newest_dtype(store) == "float16"


def test_models_never_run_are_scaled_by_their_parameters(store):
    store.record(timed(4, 6))
    unknown = experiment(5, "larger")
    unknown.model.__dict__["n_params"] = 4 * experiment(4).model.n_params
    assert seconds(store, unknown, PROTOCOL) == pytest.approx(4 * 7)
    assert estimate(measured_rates(store), [(unknown, [PROTOCOL])] * 2).scaled == 1
