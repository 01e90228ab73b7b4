from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from transformers import AutoModelForCausalLM, AutoTokenizer, ByT5Tokenizer

from evaluation.engine.encoding import tokenizer_fingerprint
from evaluation.engine.engine import Engine
from evaluation.engine.language_model import LanguageModel
from tests.evaluation.peers import PEERS, make_peer
from tests.evaluation.tiny_models import (
    CONFIGS,
    CONTEXT,
    TEXT,
    tiny_engine,
    tiny_model,
    tiny_tokenizer,
)

MODELS = Path(__file__).parents[3] / "models"

WORDS = TEXT.split()
PAIRS = [
    *(
        (" ".join(WORDS[: 3 * i + 1]), " " + " ".join(WORDS[3 * i + 1 : 4 * i + 4]))
        for i in range(4)
    ),
    ("The state of ", "the Union"),  # trailing space moves over
    ("The state of  \n", "the Union"),
    ("", "The state of the Union"),  # empty context: the prefix token
    ("", "<s>The state"),  # ... unless the continuation begins with it
    ("<s>The state of", " the Union"),  # no second BOS
    ("The st", "ate of"),  # tokens merge across the boundary
    ("naïve", "ly, some say"),
    (" ".join(WORDS), " with faith."),  # longer than the context: cut on the left
    (" ".join(WORDS) * 2, " ".join(WORDS[:12])),
    ("We shall meet the", " challenge"),
    ("We shall meet the", " peace"),
    ("We shall meet the", " challenge"),  # asked twice
    ("We shall", " meet the challenge"),  # one sequence split at another place
]


def requests(pairs: list[tuple[str, ...]], kind: str = "loglikelihood") -> list[Instance]:
    return [Instance(kind, {}, pair, i) for i, pair in enumerate(pairs)]


def assert_equal_scores(ours, theirs):
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    np.testing.assert_allclose([v for v, _ in ours], [v for v, _ in theirs], atol=1e-4, rtol=1e-6)


def greedy_pair(model, tokenizer) -> tuple[str, str]:
    """A pair whose continuation the model itself would produce."""
    for n in range(1, len(WORDS)):
        context = " ".join(WORDS[:n])
        ids = tokenizer(context)["input_ids"]
        with torch.no_grad():
            following = model(torch.tensor([ids])).logits[0, -1].argmax().item()
        continuation = tokenizer.decode(following)
        if tokenizer(context + continuation)["input_ids"] == [*ids, following]:
            return context, continuation
    raise AssertionError("no context of this text will do")


@pytest.mark.parametrize("peer_kind", PEERS)
@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_agrees_with_the_harness(architecture, adds_bos, peer_kind):
    model, tokenizer = tiny_model(architecture), tiny_tokenizer(adds_bos)
    lm = LanguageModel(Engine(model, tokenizer), CONTEXT)
    peer = make_peer(peer_kind, model, tokenizer, CONTEXT)
    pairs = [*PAIRS, greedy_pair(model, tokenizer)]
    ours = lm.loglikelihood(requests(pairs))
    assert_equal_scores(ours, peer.loglikelihood(requests(pairs), disable_tqdm=True))
    assert len({round(v, 3) for v, _ in ours}) > 10  # the models do tell texts apart
    texts = [(TEXT,), ("short",), (TEXT * 3,)]
    rolling = lm.loglikelihood_rolling(requests(texts, "loglikelihood_rolling"))
    theirs = peer.loglikelihood_rolling(requests(texts, "loglikelihood_rolling"), True)
    np.testing.assert_allclose(rolling, theirs, atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize("peer_kind", PEERS)
def test_agrees_with_the_harness_on_a_trained_model(peer_kind):
    weights = MODELS / "sotu-opt-32x2"
    if not (weights / "model.safetensors").exists():
        pytest.skip("the embedded model sotu-opt-32x2 is not there")
    model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "tokenizer")
    pairs = [
        *PAIRS,
        ("the Constitution of the United", " States"),
        ("I recommend to the", " Congress"),
    ]
    ours = LanguageModel(Engine(model, tokenizer)).loglikelihood(requests(pairs))
    peer = make_peer(peer_kind, model, tokenizer, 256)
    assert_equal_scores(ours, peer.loglikelihood(requests(pairs), disable_tqdm=True))
    assert any(greedy for _, greedy in ours) and not all(greedy for _, greedy in ours)


def test_greedy_flag_is_set_for_the_models_own_continuation():
    model, tokenizer = tiny_model("gpt2"), tiny_tokenizer()
    pair = greedy_pair(model, tokenizer)
    assert LanguageModel(Engine(model, tokenizer)).loglikelihood(requests([pair]))[0][1]


def test_tokens_are_kept_but_scores_are_not():
    model, tokenizer = tiny_model("gpt2"), tiny_tokenizer()
    engine = Engine(model, tokenizer)
    lm = LanguageModel(engine)
    before = lm.loglikelihood(requests(PAIRS[:4]))
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight.mul_(-1)
    after = lm.loglikelihood(requests(PAIRS[:4]))
    assert all(abs(a[0] - b[0]) > 1e-3 for a, b in zip(before, after, strict=True))
    calls = []
    engine.encoder.pairs = lambda *a, **k: calls.append(a)  # type: ignore[method-assign]
    assert lm.loglikelihood(requests(PAIRS[:4])) == after
    # Nor are they tokenized again for the next model with such a tokenizer.
    other = LanguageModel(Engine(tiny_model("opt"), tiny_tokenizer(), engine.encoder))
    other.loglikelihood(requests(PAIRS[:4]))
    assert not calls
    another = Engine(tiny_model("opt"), tiny_tokenizer(adds_bos=True), engine.encoder)
    assert another.encoder is not engine.encoder


def test_fingerprint_tells_tokenizers_apart():
    assert tokenizer_fingerprint(tiny_tokenizer()) == tokenizer_fingerprint(tiny_tokenizer())
    assert tokenizer_fingerprint(tiny_tokenizer()) != tokenizer_fingerprint(tiny_tokenizer(True))


def test_tokenizers_written_in_python_never_share_a_fingerprint():
    """Not even with one that is gone, whose place in memory they take."""
    assert len({tokenizer_fingerprint(ByT5Tokenizer(extra_ids=n)) for n in range(20)}) == 20


def test_refuses_what_it_cannot_score(caplog):
    lm = LanguageModel(tiny_engine("gpt2"))
    with pytest.raises(ValueError, match="nothing to score"):
        lm.loglikelihood(requests([("The", "")]))
    with pytest.raises(ValueError, match="exceeds the model's context of 48"):
        lm.loglikelihood(requests([("The", TEXT)]))
    assert lm.loglikelihood([]) == [] and lm.loglikelihood_rolling(requests([("",)])) == [0.0]
    with pytest.raises(ValueError, match="generation"):
        lm.generate_until([])
    with caplog.at_level(logging.WARNING):
        lm.loglikelihood(requests([(TEXT, " faith")]))
    assert "1 of 1 contexts cut" in caplog.text
