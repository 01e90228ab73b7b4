from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig

from evaluation.scoring import Scorer, make_plan
from tests.evaluation.tiny_models import CONTEXT, VOCAB, tiny_model


def random_sequences(n: int, seed: int = 0) -> list[tuple[list[int], int]]:
    rng = np.random.default_rng(seed)
    sequences = []
    for length in rng.integers(2, CONTEXT, n):
        tokens = rng.integers(0, VOCAB, length).tolist()
        sequences.append((tokens, int(rng.integers(1, length))))
    return sequences


def one_by_one(model, sequences):
    """The plain reference: a forward a sequence, in float64 after the logits."""
    sums, greedy = [], []
    for tokens, n in sequences:
        with torch.no_grad():
            logits = model(torch.tensor([tokens[:-1]])).logits[0, -n:].double()
        target = torch.tensor(tokens[-n:])
        sums.append(logits.log_softmax(-1)[torch.arange(n), target].sum().item())
        greedy.append(bool((logits.argmax(-1) == target).all()))
    return np.array(sums), np.array(greedy)


def test_scores_equal_a_plain_loop_in_the_order_asked():
    model, sequences = tiny_model("gpt_neox"), random_sequences(60)
    scores = Scorer(model).score(make_plan(sequences, 256))
    sums, greedy = one_by_one(model, sequences)
    np.testing.assert_allclose(scores.logprob, sums, atol=1e-4)
    assert (scores.greedy == greedy).all()


def test_batches_hold_the_budget_and_are_nearly_level():
    sequences = random_sequences(200)
    plan = make_plan(sequences, 256)
    assert all(b.input_ids.numel() <= 256 for b in plan.batches)
    widths = [b.input_ids.shape[1] for b in plan.batches]
    assert widths == sorted(widths, reverse=True)
    used = sum(len(tokens) - 1 for tokens, _ in sequences)
    assert sum(b.input_ids.numel() for b in plan.batches) < 1.15 * used
    assert sum(len(b.targets) for b in plan.batches) == sum(n for _, n in sequences)


@pytest.mark.parametrize("n", [0, 3])
def test_plan_refuses_to_score_none_or_all_tokens(n):
    with pytest.raises(ValueError, match="sequence 1: cannot score"):
        make_plan([([1, 2, 3], 1), ([1, 2, 3], n)], 64)


def test_same_scores_twice_and_whatever_was_scored_between():
    scorer = Scorer(tiny_model("opt"))
    plan = make_plan(random_sequences(20), 128)
    first = scorer.score(plan).logprob
    scorer.score(make_plan(random_sequences(9, seed=1), 512))
    assert (scorer.score(plan).logprob == first).all()


def test_runs_out_of_memory_then_halves():
    model, sequences = tiny_model("gpt2"), random_sequences(24)
    scorer, plan = Scorer(model), make_plan(sequences, 1024)
    expected = scorer.score(plan)
    rows_seen = []

    def refuse_large(module, args, kwargs):
        rows_seen.append(len(kwargs["input_ids"]))
        if rows_seen[-1] > limit:
            raise torch.OutOfMemoryError

    limit = 3
    hook = model.transformer.register_forward_pre_hook(refuse_large, with_kwargs=True)
    scores = scorer.score(plan)
    assert max(rows_seen) > 3
    np.testing.assert_allclose(scores.logprob, expected.logprob, atol=1e-4)
    limit = 0
    with pytest.raises(torch.OutOfMemoryError):
        scorer.score(plan)
    hook.remove()


def test_models_that_scale_logits_after_the_head_are_run_whole():
    torch.manual_seed(0)
    config = CohereConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        logit_scale=0.5,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model, sequences = AutoModelForCausalLM.from_config(config).eval(), random_sequences(8)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(50)
    scores = Scorer(model).score(make_plan(sequences, 256))
    np.testing.assert_allclose(scores.logprob, one_by_one(model, sequences)[0], atol=1e-3)


def test_a_diverged_model_scores_nan():
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(torch.nan)
    scores = Scorer(model).score(make_plan(random_sequences(5), 256))
    assert np.isnan(scores.logprob).all() and not scores.greedy.all()
