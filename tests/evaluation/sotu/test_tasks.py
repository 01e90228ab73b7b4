from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluation.engine.engine import Engine
from evaluation.sotu import items as sotu_items
from evaluation.sotu import tasks as sotu_tasks
from evaluation.sotu.corpus import heldout_addresses, training_addresses
from evaluation.sotu.items import full_text
from evaluation.sotu.text import words_of
from evaluation.tasks.sets import CHANCE, TASK_SETS
from evaluation.tasks.zero_shot import evaluate_zero_shot

MODELS = Path(__file__).parents[3] / "models"


@pytest.fixture(scope="module")
def items():
    folder = sotu_tasks.task_directory()
    return {
        name: [json.loads(line) for line in (folder / f"{name}.jsonl").open(encoding="utf-8")]
        for name in sotu_tasks.SOTU_TASKS
    }


def runs_of_words(texts: list[str], n: int) -> set[str]:
    runs = set()
    for text in texts:
        words = words_of(text)
        runs.update(" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
    return runs


def test_two_thousand_distinct_items_a_task(items):
    for task in items.values():
        assert len(task) == len({full_text(item) for item in task}) == 2000


def test_no_item_shares_thirteen_words_with_training_text(items):
    """By brute force over the training text, not by the hashes that the builder uses."""
    asked = runs_of_words([full_text(i) for task in items.values() for i in task], 13)
    for address in training_addresses():
        assert not asked & runs_of_words([address], 13)


def test_true_passages_are_heldout_text(items):
    heldout = " ".join(" ".join(words_of(a)) for a in heldout_addresses())
    for task in items.values():
        for item in task[:300]:
            assert " ".join(words_of(full_text(item))) in heldout


def test_every_text_fits_the_context_with_the_shared_tokenizer(items):
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "tokenizer")
    tokens = {}
    for name, task in items.items():
        texts = [t for item in task for t in sotu_tasks._texts_of(item)]
        lengths = [len(ids) for ids in tokenizer(texts)["input_ids"]]
        assert max(lengths) <= 256
        tokens[name] = sum(lengths) / len(task)
    assert sum(tokens.values()) * 500 < 200_000  # cheap enough for a demo of many experiments


def test_items_are_well_formed(items):
    for item in items["sotu_last_word"]:
        assert item["ending"][0] == " " and item["ending"][1:].isalpha()
    for name, n in (("sotu_continuation", 4), ("sotu_corruption", 2)):
        for item in items[name]:
            assert len(set(item["choices"])) == n
    for item in items["sotu_corruption"]:
        first, second = (choice.split() for choice in item["choices"])
        assert sum(a != b for a, b in zip(first, second, strict=True)) == 1
    for item in items["sotu_blank"]:
        first, second = (context.split() for context in item["contexts"])
        assert first[:-1] == second[:-1] and first[-1] != second[-1]


def test_answers_are_evenly_placed_from_the_first_items_on(items):
    for name, choices in (("sotu_continuation", 4), ("sotu_corruption", 2), ("sotu_blank", 2)):
        counts = Counter(item["label"] for item in items[name][:500])
        assert len(counts) == choices
        assert max(abs(c - 500 / choices) for c in counts.values()) < 50


@pytest.mark.skipif(version("sotu") != "0.1.2", reason="the text is that of sotu 0.1.2")
def test_items_are_the_same_everywhere():
    """What is built has the hashes that planning takes for granted."""
    built = json.loads((sotu_tasks.task_directory() / "sha256.json").read_text())
    assert built == sotu_tasks.task_data_hashes()
    assert built["sotu_blank"].startswith("c4581b48382bc984")


def test_processes_that_build_at_once_agree(tmp_path, monkeypatch):
    monkeypatch.setenv("KBIT_CACHE", str(tmp_path))
    item = {"context": "We are", "ending": " strong"}
    monkeypatch.setattr(sotu_items, "build_items", lambda: {"sotu_last_word": [item]})
    monkeypatch.setattr(sotu_tasks, "_KNOWN_HASHES", {})
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: sotu_tasks.task_directory(), range(8)))
    assert len(set(folders)) == 1
    assert json.loads((folders[0] / "sotu_last_word.jsonl").read_text()) == item
    assert [p.name for p in (tmp_path / "tasks").iterdir()] == [folders[0].name]  # no litter


def test_an_item_too_long_for_the_context_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("KBIT_CACHE", str(tmp_path))
    item = {"context": "We are strong. " * 100, "ending": " strong"}
    monkeypatch.setattr(sotu_items, "build_items", lambda: {"sotu_last_word": [item]})
    monkeypatch.setattr(sotu_tasks, "_KNOWN_HASHES", {})
    with pytest.raises(ValueError, match="sotu_last_word: an item has 4.. tokens"):
        sotu_tasks.task_directory()


@pytest.mark.parametrize("family", ["sotu-neox", "sotu-opt"])
def test_trained_models_do_what_the_tasks_are_for(family):
    """Above chance by four standard errors on each task, short of perfect, larger is better."""
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "tokenizer")
    means = {}
    for size in ("32x2", "128x4"):
        folder = MODELS / f"{family}-{size}"
        if not (folder / "model.safetensors").exists():
            pytest.skip(f"the embedded model {folder.name} is not there")
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        results = evaluate_zero_shot(Engine(model, tokenizer), list(TASK_SETS["sotu"]), 500)
        for result in results:
            metric = result.metric(TASK_SETS["sotu"][result.task])
            if size == "128x4":
                assert metric.value > CHANCE[result.task] + 4 * metric.stderr
                assert metric.value < 0.9
        scores = [r.items[TASK_SETS["sotu"][r.task]] for r in results]
        means[size] = np.array(scores)  # [task, item]
    gain = means["128x4"] - means["32x2"]
    stderr = np.sqrt((gain.var(axis=1, ddof=1) / gain.shape[1]).sum()) / len(gain)
    assert gain.mean() > 2 * stderr
