"""Models whose rows depend on the rows beside them, or on what was read before: scored alone."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DogeConfig,
    FalconConfig,
    LlamaConfig,
    Phi3Config,
    PreTrainedModel,
)

from evaluation.engine import module_state, scoring
from evaluation.engine.scoring import TOKENS_PER_BATCH, Scorer
from evaluation.engine.sequences import Sequences
from tests.evaluation.engine.test_scoring import branching_sequences, one_by_one, random_sequences
from tests.evaluation.tiny_models import CONFIGS, CONTEXT, VOCAB, tiny_model

SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [4.0 + i for i in range(8)],
    "original_max_position_embeddings": 16,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
ROW_BOUND = {
    "phi-3, longrope": lambda: Phi3Config(
        **SHAPE,
        max_position_embeddings=CONTEXT,
        original_max_position_embeddings=16,
        rope_parameters=dict(LONGROPE),
    ),
    "doge, a short window": lambda: DogeConfig(
        **SHAPE, max_position_embeddings=CONTEXT, keep_window_size=8
    ),
    "llama, dynamic": lambda: LlamaConfig(
        **SHAPE, max_position_embeddings=16, rope_parameters=dict(DYNAMIC)
    ),
}


def model_of(config) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.dim() >= 2 else 1)
    return model


def fresh_one_by_one(model: PreTrainedModel, pairs) -> np.ndarray:
    """Each sequence by a model that has read nothing before."""
    return np.array([one_by_one(copy.deepcopy(model), [pair])[0][0] for pair in pairs])


@pytest.mark.parametrize("name", ROW_BOUND)
def test_a_row_has_the_score_that_it_has_alone(name):
    model = model_of(ROW_BOUND[name]())
    eleven, forty = (list(range(3, 3 + n)) for n in (11, 40))
    pairs = [(eleven, 10), (forty, 39), *random_sequences(20), *branching_sequences(12)]
    expected = fresh_one_by_one(model, pairs)
    scorer, sequences = Scorer(model, CONTEXT), Sequences.of(pairs)
    assert scorer.rows.alone and scorer.tokens_per_batch == 1 and scorer.layout.pair_cost is None
    torch.set_num_threads(2)
    try:
        for _ in range(2):
            scored = scorer.score(sequences).logprob
            np.testing.assert_allclose(scored, expected, atol=1e-4, rtol=1e-6)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("name", ["phi-3, longrope", "llama, dynamic"])
def test_a_model_that_writes_its_buffers_is_read_by_one_thread_at_a_time(name):
    model = model_of(ROW_BOUND[name]())
    scorer, inside, together = Scorer(model, CONTEXT), set(), []
    assert {entry.name for entry in scorer.rows.state} >= {"inv_freq"}

    def enter(*_):
        inside.add(threading.get_ident())
        together.append(len(inside))

    hooks = [
        model.base_model.register_forward_pre_hook(enter),
        model.base_model.register_forward_hook(lambda *_: inside.clear()),
    ]
    torch.set_num_threads(2)
    try:
        scorer.score(Sequences.of(random_sequences(40)))
    finally:
        torch.set_num_threads(1)
        for hook in hooks:
            hook.remove()
    assert len(together) == 40 and max(together) == 1


def test_what_shows_only_in_longer_texts_than_were_tried_is_noticed_then():
    model = model_of(ROW_BOUND["llama, dynamic"]())
    pairs = random_sequences(12)
    expected = fresh_one_by_one(model, pairs)
    scorer = Scorer(model, 16)  # as far as its frequencies stay
    assert not scorer.rows.alone and not scorer.rows.state
    scored = scorer.score(Sequences.of(pairs), max_length=CONTEXT)
    assert scorer.rows.alone and scorer.tokens_per_batch == 1
    np.testing.assert_allclose(scored.logprob, expected, atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_models_whose_rows_are_their_own_share_batches_and_threads(architecture):
    scorer = Scorer(tiny_model(architecture), CONTEXT)
    assert not scorer.rows.alone and not scorer.rows.state
    assert scorer.tokens_per_batch == TOKENS_PER_BATCH["cpu"]


def test_making_a_scorer_leaves_the_models_buffers_as_they_were():
    model = model_of(ROW_BOUND["llama, dynamic"]())
    before = module_state.entries(model)
    Scorer(model, CONTEXT)
    assert {entry.name for entry in module_state.changed(before)} <= {"_attn_implementation"}


def test_trees_cost_what_the_models_own_attention_takes(monkeypatch):
    """Falcon's attention is its own: the one over trees never runs in it."""
    falcon = model_of(
        FalconConfig(
            vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=CONTEXT, alibi=False, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip
    scorer, pairs = Scorer(falcon, CONTEXT), branching_sequences(40)
    assert scorer.layout.pair_cost == 1 / (6 * 32)
    widths = [
        batch.input_ids.shape[1]
        for batch in scorer._plan(Sequences.of(pairs), scorer.layout).batches
    ]
    assert max(widths) < 4 * CONTEXT  # not as if masked pairs were free
    scored = scorer.score(Sequences.of(pairs)).logprob
    np.testing.assert_allclose(scored, one_by_one(falcon, pairs)[0], atol=1e-4, rtol=1e-6)
    assert Scorer(tiny_model("llama"), CONTEXT).layout.pair_cost == 0


def test_memory_that_runs_out_while_a_model_is_tried_halves_its_batches():
    model = tiny_model("gpt_neox")

    def refuse(module, args, kwargs):
        ids = args[0] if args else kwargs["input_ids"]
        if ids.numel() > 600:
            raise torch.OutOfMemoryError

    hook = model.base_model.register_forward_pre_hook(refuse, with_kwargs=True)
    scorer = Scorer(model, 1024)
    hook.remove()
    assert scorer.tokens_per_batch == 512 and scoring.TOKENS_PER_BATCH["cpu"] == 2048
