"""Whole tasks against the harness's HFLM and its evaluator: our own items everywhere, the public
sets where they lie beside the project."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_eval.evaluator import evaluate
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluation.engine.engine import Engine
from evaluation.engine.language_model import LanguageModel
from evaluation.tasks.loaded_task import load_task
from evaluation.tasks.local_tasks import build_task
from evaluation.tasks.zero_shot import evaluate_zero_shot
from tests.evaluation.peers import make_peer
from tests.evaluation.tiny_models import CONFIGS

OWN = Path(__file__).parents[1] / "own_items"
PUBLIC = Path(__file__).parents[4] / "shared" / "data"
MODELS = Path(__file__).parents[3] / "models"
CHOICES = ["hellaswag", "piqa", "winogrande", "arc_easy", "copa"]
OTHERS = ["storycloze_2016", "mmlu_anatomy", "paralex"]
CONTEXT = 192  # shorter than some items: contexts are cut on the left
LIMIT = 32
TRAINED = "sotu-opt-32x2"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODELS / "tokenizer")


@pytest.fixture(scope="module", params=[*CONFIGS, TRAINED])
def model(request, tokenizer):
    if request.param == TRAINED:
        return AutoModelForCausalLM.from_pretrained(MODELS / TRAINED, dtype=torch.float32).eval()
    torch.manual_seed(1)
    config = CONFIGS[request.param]()
    config.vocab_size = len(tokenizer)
    for name in ("n_positions", "max_position_embeddings", "seq_length"):
        if hasattr(config, name):
            setattr(config, name, CONTEXT)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(6)
    return model.eval()


@pytest.fixture(scope="module")
def public(tmp_path_factory) -> Path:
    """The public sets, WikiText-2 cut into pages as the harness's data set is."""
    if not PUBLIC.exists():
        pytest.skip("the public evaluation sets (shared/data) are absent")
    folder = tmp_path_factory.mktemp("public")
    for name in ["lambada_openai", *CHOICES]:
        with (PUBLIC / f"{name}.jsonl").open(encoding="utf-8") as lines:
            (folder / f"{name}.jsonl").write_text("".join(islice(lines, LIMIT)))
    lines = (PUBLIC / "wikitext2_test.raw.txt").read_text(encoding="utf-8").splitlines(True)
    starts = [i for i, x in enumerate(lines) if x.startswith(" = ") and not x.startswith(" = = ")]
    pages = ["".join(lines[a:b])[:2500] for a, b in zip(starts[:2], starts[1:3], strict=True)]
    rows = "".join(json.dumps({"page": page}) + "\n" for page in pages)
    (folder / "wikitext.jsonl").write_text(rows)
    return folder


def assert_same_scores(model, tokenizer, folder: Path, names: list[str]) -> None:
    """Every request's log-probability and greedy flag, every item's score, every metric."""
    engine = Engine(model, tokenizer)
    lm = LanguageModel(engine, CONTEXT)
    files = dict.fromkeys(names, str(folder))
    ours = evaluate_zero_shot(engine, names, LIMIT, files, CONTEXT)
    tasks = {name: build_task(name, str(folder)) for name in names}
    peer = make_peer("hflm", model, tokenizer, CONTEXT)
    theirs = evaluate(peer, {"tasks": tasks}, limit=LIMIT, bootstrap_iters=0)
    for result in ours:
        requests = tasks[result.task].instances
        answers = getattr(lm, requests[0].request_type)(requests)
        if requests[0].request_type == "loglikelihood":
            values, greedy = zip(*answers, strict=True)
            expected, their_greedy = zip(*(r.resps[0] for r in requests), strict=True)
            assert greedy == their_greedy
        else:
            values, expected = answers, [r.resps[0] for r in requests]
        np.testing.assert_allclose(values, expected, atol=1e-4, rtol=1e-6)
        for metric in result.metrics:
            value = theirs["results"][result.task][f"{metric.name},none"]
            exact = metric.name.startswith("acc")
            assert metric.value == (value if exact else pytest.approx(value, rel=1e-5))
        n_items = len(theirs["samples"][result.task])
        assert {len(items) for items in result.items.values()} <= {n_items}


def test_own_items_score_as_in_the_harness(model, tokenizer):
    names = ["lambada_openai", "wikitext", *CHOICES, *OTHERS]
    assert_same_scores(model, tokenizer, OWN, names)


def test_own_items_reach_the_hard_cases(tokenizer):
    """A context to cut, a text of several windows, continuations that begin and end with spaces,
    prompts whose choices differ in the context."""
    requests = {
        name: load_task(name, None, str(OWN)).requests
        for name in ("lambada_openai", "wikitext", "copa", "winogrande", "piqa")
    }
    assert max(len(tokenizer("".join(r.args)).input_ids) for r in requests["lambada_openai"]) > 300
    assert max(len(tokenizer(r.args[0]).input_ids) for r in requests["wikitext"]) > 2 * CONTEXT
    assert all(r.args[1].startswith("  ") for r in requests["copa"])
    assert any(r.args[1].endswith(" ") for r in requests["piqa"])
    contexts = [r.args[0] for r in requests["winogrande"]]
    assert len(set(contexts)) == len(contexts)


def test_public_sets_score_as_in_the_harness(model, tokenizer, public):
    assert_same_scores(model, tokenizer, public, ["lambada_openai", "wikitext", *CHOICES])
