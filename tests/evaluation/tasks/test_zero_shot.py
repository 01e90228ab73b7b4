from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from evaluation.engine.engine import Engine
from evaluation.engine.language_model import LanguageModel
from evaluation.protocols import task_protocol
from evaluation.tasks import index as task_index
from evaluation.tasks.index import task_file
from evaluation.tasks.loaded_task import load_task
from evaluation.tasks.sets import CHANCE, TASK_SETS
from evaluation.tasks.zero_shot import evaluate_zero_shot
from tests.evaluation.peers import PEERS, make_peer
from tests.evaluation.tiny_models import tiny_engine

DATA = Path(__file__).parents[4] / "shared" / "data"
SOTU = list(TASK_SETS["sotu"])


def tiny() -> Engine:
    return tiny_engine("llama", 400)


@pytest.mark.parametrize("name", SOTU)
def test_equals_the_harness_with_its_own_evaluator(name):
    engine = tiny()
    (ours,) = evaluate_zero_shot(engine, [name], limit=25)
    peer = make_peer("plain", engine.model, engine.encoder.tokenizer, 400)
    tasks = TaskManager(include_defaults=False).load([str(task_file(name))])
    theirs = evaluate(peer, tasks, limit=25, bootstrap_iters=0)
    for metric in ours.metrics:
        expected = theirs["results"][name][f"{metric.name},none"]
        assert metric.value == pytest.approx(expected, rel=1e-4)
        samples = [sample[metric.name] for sample in theirs["samples"][name]]
        np.testing.assert_allclose(ours.items[metric.name], samples, rtol=1e-5, atol=1e-4)
        assert metric.n_items == len(samples) == 25
    assert {m.name for m in ours.metrics} >= {TASK_SETS["sotu"][name], "acc"}


def test_standard_errors_are_of_the_items():
    (result,) = evaluate_zero_shot(tiny(), ["sotu_last_word"], limit=30)
    logprobs = result.items["perplexity"]
    expected = logprobs.std(ddof=1) / math.sqrt(30) * result.metric("perplexity").value
    assert result.metric("perplexity").stderr == pytest.approx(expected, rel=1e-4)
    (result,) = evaluate_zero_shot(tiny(), ["sotu_blank"], limit=30)
    p = result.metric("acc").value
    assert result.metric("acc").stderr == pytest.approx(math.sqrt(p * (1 - p) / 29), rel=1e-4)


def test_scores_do_not_depend_on_the_other_tasks_asked():
    engine = tiny()
    together = evaluate_zero_shot(engine, SOTU, limit=20)
    for name, result in zip(SOTU, together, strict=True):
        (alone,) = evaluate_zero_shot(engine, [name], limit=20)
        assert alone.metrics == result.metrics and alone.task == name


def test_tasks_and_requests_are_built_once():
    assert load_task("sotu_blank", 10) is load_task("sotu_blank", 10)
    first = evaluate_zero_shot(tiny(), ["sotu_blank"], 10)
    assert evaluate_zero_shot(tiny(), ["sotu_blank"], 10)[0].metrics == first[0].metrics


def test_a_diverged_model_is_a_result():
    engine = tiny()
    with torch.no_grad():
        engine.model.model.norm.weight.fill_(torch.nan)
    results = {r.task: r for r in evaluate_zero_shot(engine, SOTU, limit=40)}
    assert math.isnan(results["sotu_last_word"].metric("perplexity").value)
    assert results["sotu_last_word"].metric("acc").value == 0
    assert 0.2 < results["sotu_blank"].metric("acc").value < 0.8
    with torch.no_grad():
        engine.model.model.norm.weight.fill_(1e6)
    (result,) = evaluate_zero_shot(engine, ["sotu_last_word"], limit=40)
    assert result.metric("perplexity").value == math.inf


def test_protocol_is_json_follows_limit_and_is_that_of_the_measurement():
    protocol = task_protocol("sotu_blank", 10)
    assert json.loads(json.dumps(protocol)) == protocol
    assert protocol != task_protocol("sotu_blank", 11)
    assert protocol["data"] != task_protocol("sotu_corruption", 10)["data"]
    assert evaluate_zero_shot(tiny(), ["sotu_blank"], 10)[0].protocol == protocol
    with pytest.raises(ValueError, match="limit 0 must be at least 1"):
        task_protocol("sotu_blank", 0)


def test_the_harness_tasks_are_found_without_their_data():
    for name in TASK_SETS["paper"]:
        protocol = task_protocol(name)
        assert protocol["task_version"] == 1.0 and protocol["num_fewshot"] == 0
    assert task_protocol("winogrande")["data"] == "allenai/winogrande/winogrande_xl"
    assert task_protocol("piqa")["harness"].startswith("lm-eval ")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hellaswagg", "did you mean .*hellaswag"),
        ("sotu_blanc", "did you mean sotu_blank"),
        ("gsm8k", "generates text"),
        ("no such thing at all", "for example sotu_last_word"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(name, message):
    for function in (task_protocol, lambda n: evaluate_zero_shot(tiny(), [n], 2)):
        with pytest.raises(ValueError, match=message) as caught:
            function(name)
        assert "\n" not in str(caught.value)


def test_local_tasks_need_no_index(monkeypatch):
    monkeypatch.setattr(task_index, "_harness", lambda: pytest.fail("indexed the harness"))
    assert task_file("sotu_blank").exists()


def test_unreachable_data_is_one_clear_line(monkeypatch):
    def unreachable(self, tasks):
        raise ConnectionError("couldn't reach the hub\nlong trace")

    monkeypatch.setattr(TaskManager, "load", unreachable)
    with pytest.raises(ValueError, match="'piqa'.*couldn't reach the hub.*sotu_blank") as caught:
        evaluate_zero_shot(tiny(), ["piqa"], 3)
    assert "\n" not in str(caught.value)


def test_every_task_of_a_set_has_a_chance_level():
    for tasks in TASK_SETS.values():
        assert all(0 <= CHANCE[name] < 1 for name in tasks)


def public_requests() -> list[tuple[str, str]]:
    """A few requests of each of the paper's tasks, as the harness words them."""

    def rows(name: str) -> list[dict]:
        with (DATA / f"{name}.jsonl").open(encoding="utf-8") as lines:
            return [json.loads(next(lines)) for _ in range(6)]

    pairs = []
    for row in rows("lambada_openai"):
        *context, last = row["text"].split(" ")
        pairs.append((" ".join(context), f" {last}"))
    for row in rows("hellaswag"):
        pairs += [(row["query"], f" {choice}") for choice in row["choices"]]
    for row in rows("piqa"):
        pairs += [(f"Question: {row['goal']}\nAnswer:", f" {row[s]}") for s in ("sol1", "sol2")]
    for row in rows("winogrande"):
        before, after = row["sentence"].split("_")
        pairs += [(before + row[o], f" {after.strip()}") for o in ("option1", "option2")]
    return pairs


@pytest.mark.skipif(not DATA.exists(), reason="the public evaluation sets (shared/data) are absent")
@pytest.mark.parametrize("peer_kind", PEERS)
def test_public_requests_score_as_in_the_harness(peer_kind):
    engine = tiny_engine("gpt_neox", 96)
    requests = [
        Instance("loglikelihood", {}, (context[-90:], continuation[:60]), i)
        for i, (context, continuation) in enumerate(public_requests())
    ]
    ours = LanguageModel(engine).loglikelihood(requests)
    peer = make_peer(peer_kind, engine.model, engine.encoder.tokenizer, 96)
    theirs = peer.loglikelihood(requests, disable_tqdm=True)
    np.testing.assert_allclose([v for v, _ in ours], [v for v, _ in theirs], atol=1e-4, rtol=1e-6)
    assert [g for _, g in ours] == [g for _, g in theirs]
