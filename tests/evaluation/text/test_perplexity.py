from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GemmaConfig

from evaluation.engine.engine import Engine
from evaluation.protocols import perplexity_protocol
from evaluation.text.perplexity import evaluate_perplexity, token_stream
from tests.evaluation.tiny_models import CONTEXT, TEXT, tiny_engine, tiny_model, tiny_tokenizer

DATA = Path(__file__).parents[4] / "shared" / "data"
DOCUMENTS = [TEXT, "Naïve — façade.", TEXT[40:]]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(json.dumps({"text": d}) for d in DOCUMENTS))
    return str(path)


def plain_loop(model, ids: list[int], context: int) -> list[list[float]]:
    """Nats of each scored token, window by window, one forward each."""
    windows = []
    for start in range(0, len(ids) - 1, context):
        piece = ids[start : start + context + 1]
        with torch.no_grad():
            logits = model(torch.tensor([piece[:-1]])).logits[0].double()
        target = torch.tensor(piece[1:])
        windows.append((-logits.log_softmax(-1)[torch.arange(len(target)), target]).tolist())
    return windows


def stream_of(tokenizer) -> list[int]:
    ids = []
    for document in DOCUMENTS:
        ids += tokenizer.encode(document, add_special_tokens=False) + [tokenizer.eos_token_id]
    return ids


@pytest.mark.parametrize(
    ("context", "max_tokens"), [(None, None), (16, None), (16, 100), (7, 21), (48, 10)]
)
@pytest.mark.parametrize("adds_bos", [False, True])
def test_equals_a_plain_loop(corpus, context, max_tokens, adds_bos):
    model, tokenizer = tiny_model("gpt2"), tiny_tokenizer(adds_bos)
    result = evaluate_perplexity(Engine(model, tokenizer), corpus, context, max_tokens)
    ids = stream_of(tokenizer)[: None if max_tokens is None else max_tokens + 1]
    windows = plain_loop(model, ids, context or CONTEXT)
    nats = [v for window in windows for v in window]
    assert result.metric("tokens").value == len(nats) == len(ids) - 1
    mean = sum(nats) / len(nats)
    assert result.metric("cross_entropy").value == pytest.approx(mean, rel=1e-5)
    assert result.metric("perplexity").value == pytest.approx(math.exp(mean), rel=1e-4)
    expected = [sum(window) / len(window) for window in windows]
    np.testing.assert_allclose(result.items["cross_entropy"], expected, rtol=1e-4)
    assert result.items["cross_entropy"].dtype == np.float32
    assert result.protocol == perplexity_protocol(corpus, context, max_tokens)


@pytest.mark.parametrize("max_tokens", [None, 60, 100])
def test_bits_per_byte_counts_exactly_the_scored_text(corpus, max_tokens):
    model, tokenizer = tiny_model("gpt2"), tiny_tokenizer()
    result = evaluate_perplexity(Engine(model, tokenizer), corpus, 16, max_tokens)
    ids = stream_of(tokenizer)[: None if max_tokens is None else max_tokens + 1]
    text = tokenizer.decode([i for i in ids[1:] if i != tokenizer.eos_token_id])
    total_nats = result.metric("cross_entropy").value * (len(ids) - 1)
    expected = total_nats / math.log(2) / len(text.encode())
    assert result.metric("bits_per_byte").value == pytest.approx(expected, rel=1e-9)


def test_token_stream_without_a_limit_covers_every_byte_but_the_first_tokens():
    tokenizer = tiny_tokenizer()
    stream = token_stream(tokenizer, DOCUMENTS, None)
    first = tokenizer.decode(stream.ids[0])
    assert stream.scored_bytes == sum(len(d.encode()) for d in DOCUMENTS) - len(first.encode())
    assert stream.ids == stream_of(tokenizer)


def test_standard_error_is_that_of_window_means_when_windows_are_level(corpus):
    result = evaluate_perplexity(tiny_engine("opt"), corpus, 10, 200)
    items = result.items["cross_entropy"]
    expected = items.std(ddof=1) / math.sqrt(len(items))
    metric = result.metric("cross_entropy")
    assert metric.n_items == len(items) == 20
    assert metric.stderr == pytest.approx(expected, rel=1e-4)
    perplexity = result.metric("perplexity")
    assert perplexity.stderr == pytest.approx(expected * perplexity.value, rel=1e-4)


def test_one_window_has_no_standard_error(corpus):
    result = evaluate_perplexity(tiny_engine("opt"), corpus, 40, 40)
    assert result.metric("cross_entropy").stderr is None


@pytest.mark.parametrize(("factor", "expected"), [(1e6, math.inf), (math.nan, math.nan)])
def test_a_diverged_model_is_a_result(corpus, factor, expected):
    model = tiny_model("gpt_neox")
    with torch.no_grad():
        model.lm_head.weight.mul_(factor)
    result = evaluate_perplexity(Engine(model, tiny_tokenizer()), corpus, 16, 100)
    assert result.metric("perplexity").value == pytest.approx(expected, nan_ok=True)


def test_a_changed_file_is_read_again(corpus):
    model, tokenizer = tiny_model("gpt2"), tiny_tokenizer()
    before = evaluate_perplexity(Engine(model, tokenizer), corpus, 16)
    Path(corpus).write_text(json.dumps({"text": TEXT[::-1]}))
    after = evaluate_perplexity(Engine(model, tokenizer), corpus, 16)
    assert before.protocol != after.protocol
    assert before.metric("cross_entropy").value != after.metric("cross_entropy").value


def test_bad_limits_and_empty_corpora(corpus, tmp_path):
    model, tokenizer = tiny_model("gpt2"), tiny_tokenizer()
    with pytest.raises(ValueError, match="context 49 exceeds the 48 tokens"):
        evaluate_perplexity(Engine(model, tokenizer), corpus, 49)
    with pytest.raises(ValueError, match="max_tokens 0 must be at least 1"):
        evaluate_perplexity(Engine(model, tokenizer), corpus, 16, 0)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ValueError, match="has 1 tokens"):
        evaluate_perplexity(Engine(model, tokenizer), str(tmp_path / "empty.txt"), 16)


def tiny_gemma():
    torch.manual_seed(0)
    config = GemmaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, head_dim=16,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=CONTEXT,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(20)
    return model


@pytest.mark.parametrize(
    ("make", "bos", "begins"),
    [
        (tiny_gemma, "auto", True),
        (tiny_gemma, False, False),
        (lambda: tiny_model("llama"), "auto", False),
        (lambda: tiny_model("llama"), True, True),
    ],
)
def test_windows_begin_with_bos_where_a_model_needs_it_or_it_is_asked_for(
    corpus, make, bos, begins
):
    engine = Engine(make(), tiny_tokenizer())
    result = evaluate_perplexity(engine, corpus, 16, 100, bos=bos)
    ids, first = stream_of(engine.encoder.tokenizer)[:101], engine.encoder.tokenizer.bos_token_id
    nats = []
    for start in range(0, 100, 15 if begins else 16):
        piece = ids[start : start + (16 if begins else 17)]
        read = [first, *piece[:-1]] if begins else piece[:-1]
        with torch.no_grad():
            logits = engine.model(torch.tensor([read])).logits[0, -len(piece) + 1 :].double()
        target = torch.tensor(piece[1:])
        nats += (-logits.log_softmax(-1)[torch.arange(len(target)), target]).tolist()
    assert len(nats) == 100 == result.metric("tokens").value  # the same tokens either way
    assert result.metric("cross_entropy").value == pytest.approx(sum(nats) / 100, rel=1e-5)
    assert result.protocol == perplexity_protocol(corpus, 16, 100, bos=begins)
    assert ("bos" in result.protocol) is begins


def test_bos_needs_a_token_for_it_and_room(corpus):
    engine = tiny_engine("llama")
    with pytest.raises(ValueError, match="a window of 1 token has no room"):
        evaluate_perplexity(engine, corpus, 1, 100, bos=True)
    engine.encoder.tokenizer.bos_token = None
    with pytest.raises(ValueError, match=r"corpus.jsonl: bos: the tokenizer has no BOS token"):
        evaluate_perplexity(engine, corpus, 16, 100, bos=True)


@pytest.mark.skipif(not DATA.exists(), reason="the public evaluation sets (shared/data) are absent")
def test_on_public_text():
    corpus = str(DATA / "wikitext2_test.raw.txt")
    result = evaluate_perplexity(tiny_engine("opt"), corpus, 32, 2000)
    assert result.task == "wikitext2_test.raw.txt"
    assert result.metric("tokens").value == 2000
    assert result.metric("cross_entropy").value > math.log(2)
