"""The scoring engine on a GPU: `pytest -m gpu`."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig

from evaluation.engine.abilities import attention_kernels, model_inputs
from evaluation.engine.layout import plan
from evaluation.engine.scoring import TOKENS_PER_BATCH, Scorer
from evaluation.engine.sequences import Sequences
from tests.evaluation.engine.test_scoring import (
    branching_sequences,
    one_by_one,
    random_sequences,
    refuse_large,
)
from tests.evaluation.tiny_models import CONTEXT, tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

CUDA = torch.device("cuda")
ARCHITECTURES = ("gpt_neox", "gpt2", "llama")
SEQUENCES = random_sequences(40) + branching_sequences(80)


@pytest.fixture(autouse=True)
def full_precision():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # no TF32
    yield
    torch.set_float32_matmul_precision(before)


def random_neox(dtype, vocabulary=1000, hidden=512, layers=6):
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        intermediate_size=4 * hidden,
        max_position_embeddings=512,
    )
    return AutoModelForCausalLM.from_config(config, dtype=dtype).to(CUDA).eval()


def without_trees(model):
    """A copy of the model that reads plain rows."""
    model = copy.deepcopy(model)
    scorer = Scorer(model, CONTEXT)
    scorer._pair_cost = None
    assert all(
        batch.depth is None for batch in plan(Sequences.of(SEQUENCES), scorer.layout).batches
    )
    return scorer


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_are_those_of_a_plain_loop_on_the_cpu(architecture):
    model = tiny_model(architecture)
    sums, greedy = one_by_one(model, SEQUENCES)
    scorer = Scorer(model.to(CUDA), CONTEXT)
    assert scorer.layout.pair_cost is not None
    for rows in (scorer, without_trees(model)):
        scores = rows.score(Sequences.of(SEQUENCES))
        np.testing.assert_allclose(scores.logprob, sums, atol=1e-3, rtol=1e-4)
        assert (scores.greedy == greedy).all()


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_16_bit_scores_are_finite_close_and_the_same_twice(architecture, dtype):
    model = tiny_model(architecture).to(dtype)
    sums, _ = one_by_one(copy.deepcopy(model).float(), SEQUENCES)
    scorer = Scorer(model.to(CUDA), CONTEXT)
    for rows in (scorer, without_trees(model)):
        scores = rows.score(Sequences.of(SEQUENCES)).logprob
        assert np.isfinite(scores).all()
        # On a CPU 0.06 eps at most.
        assert np.abs(scores - sums).mean() / np.abs(sums).mean() < torch.finfo(dtype).eps
        assert (rows.score(Sequences.of(SEQUENCES)).logprob == scores).all()


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16, torch.float32))
def test_models_of_a_usual_size_read_trees_and_have_their_head_apart(dtype):
    model = random_neox(dtype)
    scorer = Scorer(model, CONTEXT)
    assert scorer._head_apart
    assert scorer.layout.pair_cost is not None
    assert scorer.layout.tokens_per_batch == TOKENS_PER_BATCH["cuda"]


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_padding_of_trees_is_finite_on_every_kernel(dtype):
    model = random_neox(dtype)
    padded = 0
    for batch in plan(Sequences.of(SEQUENCES), Scorer(model, CONTEXT).layout).batches:
        padded += batch.depth is not None and int((batch.depth[:, 1:] == 0).sum())
        batch = batch.to(CUDA)
        with torch.inference_mode(), attention_kernels(CUDA):
            states = model.base_model(**model_inputs(model, batch)).last_hidden_state
        assert states.isfinite().all()
    assert padded


def test_refused_batches_are_halved():
    model = tiny_model("gpt2").to(CUDA)
    expected = Scorer(model, CONTEXT).score(Sequences.of(SEQUENCES))
    seen: list[int] = []
    hook = refuse_large(model, 600, seen)
    scorer = Scorer(model, CONTEXT)
    scores = scorer.score(Sequences.of(SEQUENCES))
    hook.remove()
    assert scorer.tokens_per_batch in (512, 256) and seen[-1] <= 600
    np.testing.assert_allclose(scores.logprob, expected.logprob, atol=1e-3, rtol=1e-4)


def test_memory_that_really_runs_out_halves_the_batches():
    """All that a batch needs grows with its tokens: 60 % of what the largest needs is too little
    for it, and enough for a smaller one."""
    model = random_neox(torch.float32)
    tokens = np.random.default_rng(0).integers(0, 1000, (64, 300)).tolist()
    sequences = Sequences.of([(row, 299) for row in tokens])
    unlimited = copy.deepcopy(model)
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    scorer = Scorer(unlimited, 512)
    expected = scorer.score(sequences)
    needed = torch.cuda.max_memory_allocated() - held
    assert scorer.tokens_per_batch == TOKENS_PER_BATCH["cuda"]
    torch.cuda.empty_cache()
    room = torch.cuda.memory_reserved() + 0.6 * needed
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.mem_get_info()[1])
    try:
        scorer = Scorer(model, 512)
        scores = scorer.score(sequences)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert 299 <= scorer.tokens_per_batch < TOKENS_PER_BATCH["cuda"]
    np.testing.assert_allclose(scores.logprob, expected.logprob, atol=1e-3, rtol=1e-4)
