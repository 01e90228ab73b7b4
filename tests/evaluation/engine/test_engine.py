"""One engine a model: the tokenizer is serialized once, and what it tokenized is kept."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from evaluation.engine.engine import Engine
from evaluation.engine.recent import Recent
from evaluation.engine.scoring import Scorer
from evaluation.engine.sequences import Sequences
from evaluation.tasks.zero_shot import evaluate_zero_shot
from evaluation.text.perplexity import evaluate_perplexity
from tests.evaluation.engine.test_scoring import random_sequences
from tests.evaluation.tiny_models import CONTEXT, TEXT, tiny_engine, tiny_model, tiny_tokenizer


@pytest.fixture
def serialized(monkeypatch):
    """How often any tokenizer has been serialized."""
    calls = []
    fingerprint = "evaluation.engine.encoding.tokenizer_fingerprint"
    monkeypatch.setattr(
        fingerprint, lambda tokenizer: calls.append(tokenizer) or "one and the same"
    )
    return calls


def test_the_tokenizer_is_serialized_once_whatever_is_scored(serialized, tmp_path):
    """0.2 s of a vocabulary of 50 thousand; it was once a protocol of every experiment."""
    corpus = tmp_path / "text.txt"
    corpus.write_text(TEXT)
    engine = tiny_engine("llama", 400)
    for _ in range(2):
        evaluate_zero_shot(engine, ["sotu_blank", "sotu_last_word", "sotu_corruption"], 4)
        for context in (16, 32):
            evaluate_perplexity(engine, str(corpus), context)
    assert len(serialized) == 1


def test_a_plan_is_made_once_while_the_layout_stays():
    scorer, sequences = Scorer(tiny_model("gpt2"), CONTEXT), Sequences.of(random_sequences(9))
    made = scorer._plan(sequences, scorer.layout)
    assert scorer._plan(sequences, scorer.layout) is made
    scorer.tokens_per_batch //= 2
    assert scorer._plan(sequences, scorer.layout) is not made


def test_only_what_was_asked_for_lately_is_kept():
    recent, made = Recent(2), []

    def ask(key):
        return recent.get(key, lambda: made.append(key) or key)

    assert [ask(key) for key in "abacab"] == list("abacab")
    assert made == ["a", "b", "c", "b"]  # b went when c came, since a had been asked for again


def engine_with_a_token_too_many() -> Engine:
    """Its tokenizer knows <extra>, for which the model has no embedding."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<extra>"]})
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer) - 1, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=CONTEXT,
    )  # fmt: skip
    return Engine(AutoModelForCausalLM.from_config(config), tokenizer)


def rows(path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def test_a_token_without_an_embedding_matters_only_where_it_is_scored(tmp_path):
    engine = engine_with_a_token_too_many()
    fine, bad = rows(tmp_path / "a.jsonl", [TEXT]), rows(tmp_path / "b.jsonl", ["A <extra> word."])
    assert evaluate_perplexity(engine, fine, 16).metric("tokens").value > 16
    (result,) = evaluate_zero_shot(engine, ["lambada_openai"], None, {"lambada_openai": fine}, 48)
    assert result.metric("acc").n_items == 1
    token = len(engine.encoder.tokenizer) - 1
    for subject, score in (
        ("corpus b.jsonl", lambda: evaluate_perplexity(engine, bad, 16)),
        (
            "task lambada_openai",
            lambda: evaluate_zero_shot(engine, ["lambada_openai"], None, {"lambada_openai": bad}),
        ),
    ):
        message = (
            rf"^{subject}: its text has token {token} \('<extra>'\), the model has {token} emb"
        )
        with pytest.raises(ValueError, match=message) as caught:
            score()
        assert "\n" not in str(caught.value)
