from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from lm_eval.api.metrics import mean
from lm_eval.api.task import ConfigurableTask

from evaluation.engine.encoding import Encoder
from evaluation.engine.scoring import Scores
from evaluation.protocols import task_protocol
from evaluation.tasks import requests as task_requests
from evaluation.tasks.loaded_task import load_task
from evaluation.tasks.sets import TASK_SETS
from evaluation.tasks.zero_shot import evaluate_zero_shot
from tests.evaluation.tiny_models import tiny_engine, tiny_tokenizer

OWN = str(Path(__file__).parents[1] / "own_items")
TASKS = [(name, None) for name in TASK_SETS["sotu"]]
TASKS += [(name, OWN) for name in ("lambada_openai", "hellaswag", "winogrande", "arc_easy", "copa")]
LIMIT = 40


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """Nothing built before, in memory or on disk; the embedded tasks' files stay where they are."""
    monkeypatch.setattr(task_requests, "cache_directory", lambda: tmp_path)


def requests_of(name: str, data_files: str | None, tokenizer=None):
    protocol = task_protocol(name, LIMIT, data_files)
    loaded = load_task(name, LIMIT, data_files, protocol["data"])
    encoder = Encoder(tokenizer or tiny_tokenizer())
    return loaded, task_requests.task_requests(encoder, protocol, lambda: loaded)


def random_scores(n: int, seed: int) -> Scores:
    """With ties, nan and infinities among them."""
    rng = np.random.default_rng(seed)
    logprob = -rng.integers(1, 6, n).astype(np.float64)
    odd = [np.nan, -np.inf, np.inf]
    logprob[rng.random(n) < 0.1] = rng.choice(odd)
    logprob[rng.random(n) < 0.05] = rng.choice(odd)
    return Scores(logprob, rng.random(n) < 0.3)


@pytest.mark.parametrize(("name", "data_files"), TASKS)
def test_item_scores_are_those_of_the_harness(name, data_files):
    loaded, requests = requests_of(name, data_files)
    assert requests is not None
    for seed in range(10):
        scores = random_scores(len(loaded.requests), seed)
        answers = list(zip(scores.logprob.tolist(), scores.greedy.tolist(), strict=True))
        with np.errstate(all="ignore"):
            judged = [loaded.task.process_results(d, answers[w]) for d, w in loaded.items]
        ours = requests.item_scores(scores)
        assert list(ours) == list(judged[0])
        for metric, values in ours.items():
            np.testing.assert_array_equal(values, [item[metric] for item in judged])


@pytest.mark.parametrize("name", TASK_SETS["sotu"])
def test_a_measurement_is_the_one_that_the_tasks_own_code_would_give(name, monkeypatch):
    engine = tiny_engine("gpt_neox", 400)
    (ours,) = evaluate_zero_shot(engine, [name], LIMIT)
    monkeypatch.setattr("evaluation.tasks.zero_shot.task_requests", lambda *args: None)
    (judged,) = evaluate_zero_shot(engine, [name], LIMIT)
    assert ours.metrics == judged.metrics and ours.protocol == judged.protocol
    assert list(ours.items) == list(judged.items)
    for metric, values in judged.items.items():
        np.testing.assert_array_equal(ours.items[metric], values)
        assert ours.items[metric].dtype == values.dtype == np.float32


def test_another_process_reads_what_one_has_built(monkeypatch):
    _, built = requests_of("sotu_blank", None)

    def refuse():
        raise AssertionError("built again")

    protocol = task_protocol("sotu_blank", LIMIT)
    read = task_requests.task_requests(Encoder(tiny_tokenizer()), protocol, refuse)
    assert read is not None and read is not built
    for field in ("items", "gold", "characters", "bytes"):
        np.testing.assert_array_equal(getattr(read, field), getattr(built, field))
    assert read.metrics == built.metrics
    for field in ("tokens", "starts", "scored"):
        np.testing.assert_array_equal(
            getattr(read.sequences, field), getattr(built.sequences, field)
        )
    for changed in ({"limit": 7}, {"task_version": 9}, {"data": "other"}, {"harness": "older"}):
        with pytest.raises(AssertionError, match="built again"):
            task_requests.task_requests(Encoder(tiny_tokenizer()), protocol | changed, refuse)
    with pytest.raises(AssertionError, match="built again"):
        task_requests.task_requests(Encoder(tiny_tokenizer(True)), protocol, refuse)


def test_a_tokenizer_known_by_identity_alone_is_not_kept_on_disk(tmp_path, monkeypatch):
    encoder = Encoder(tiny_tokenizer())
    slow = SimpleNamespace(
        fingerprint="of this process",
        tokenizer=SimpleNamespace(is_fast=False),
        pairs=encoder.pairs,
        kept=encoder.kept,
    )
    protocol = task_protocol("sotu_blank", LIMIT)
    loaded = load_task("sotu_blank", LIMIT)
    assert task_requests.task_requests(slow, protocol, lambda: loaded) is not None  # type: ignore
    assert not list(tmp_path.rglob("*.npz"))


def test_metrics_that_only_the_task_can_judge_are_left_to_it(monkeypatch):
    loaded = load_task("sotu_blank", LIMIT)
    judge = task_requests._judge
    assert judge(loaded) is not None
    monkeypatch.setattr(
        ConfigurableTask, "aggregation", lambda self: {"acc": mean, "brier_score": mean}
    )
    assert judge(loaded) is None
    monkeypatch.setattr(ConfigurableTask, "aggregation", lambda self: {"acc": max})
    assert judge(loaded) is None


def test_answers_are_never_kept(tmp_path):
    engine = tiny_engine("gpt2")
    evaluate_zero_shot(engine, ["sotu_last_word"], 5)
    (file,) = tmp_path.rglob("*.npz")
    with np.load(file) as arrays:
        assert set(arrays.files) == {
            "tokens", "starts", "scored", "items", "metrics", "gold", "characters", "bytes"
        }  # fmt: skip
        assert arrays["tokens"].dtype == np.uint16
