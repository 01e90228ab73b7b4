from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig, MistralConfig, XLMConfig

from evaluation.engine import scoring
from evaluation.engine.scoring import TOKENS_PER_BATCH, Scorer
from evaluation.engine.sequences import Sequences
from tests.evaluation.tiny_models import CONFIGS, CONTEXT, VOCAB, tiny_model


def random_sequences(n: int, seed: int = 0) -> list[tuple[list[int], int]]:
    rng = np.random.default_rng(seed)
    sequences = []
    for length in rng.integers(2, CONTEXT, n):
        tokens = rng.integers(0, VOCAB, length).tolist()
        sequences.append((tokens, int(rng.integers(1, length))))
    return sequences


def branching_sequences(n: int, seed: int = 0) -> list[tuple[list[int], int]]:
    """Four ways on from each of n / 4 beginnings, two of which part later; in no order."""
    rng = np.random.default_rng(seed)
    sequences = []
    for length in rng.integers(CONTEXT // 3, CONTEXT // 2, n // 4):
        start = rng.integers(0, VOCAB, length).tolist()
        ways = [rng.integers(0, VOCAB, k).tolist() for k in rng.integers(1, 8, 4)]
        ways[1] = ways[0] + ways[1]
        sequences += [(start + way, int(rng.integers(1, len(way) + 2))) for way in ways]
    return [sequences[i] for i in rng.permutation(len(sequences))]


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


@pytest.mark.parametrize("architecture", CONFIGS)
def test_scores_equal_a_plain_loop_in_the_order_asked(architecture):
    model, sequences = tiny_model(architecture), random_sequences(40) + branching_sequences(40)
    scores = Scorer(model, CONTEXT).score(Sequences.of(sequences))
    sums, greedy = one_by_one(model, sequences)
    np.testing.assert_allclose(scores.logprob, sums, atol=1e-4, rtol=1e-6)
    assert (scores.greedy == greedy).all()


@pytest.mark.parametrize("architecture", CONFIGS)
def test_shared_prefixes_are_read_once_where_the_model_can(architecture):
    model, read = tiny_model(architecture), []
    sequences = Sequences.of(branching_sequences(60))
    scorer = Scorer(model, CONTEXT)
    hook = model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    scorer.score(sequences)
    hook.remove()
    plain = int((sequences.lengths - 1).sum())
    # BLOOM's positions follow from the mask, so it reads each sequence by itself.
    assert sum(read) >= plain if architecture == "bloom" else sum(read) < 0.7 * plain


@pytest.mark.parametrize("architecture", CONFIGS)
def test_trees_are_scored_alike_with_the_masks_of_torchs_attention(architecture, monkeypatch):
    sequences = Sequences.of(branching_sequences(60))
    without_masks = Scorer(tiny_model(architecture), CONTEXT).score(sequences)
    model = tiny_model(architecture)
    monkeypatch.setattr(model, "set_attn_implementation", lambda name: None)
    with_masks = Scorer(model, CONTEXT).score(sequences)
    np.testing.assert_allclose(without_masks.logprob, with_masks.logprob, atol=1e-4, rtol=1e-6)
    assert (without_masks.greedy == with_masks.greedy).all()


def test_models_with_a_window_of_attention_share_nothing():
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        sliding_window=8,
    )
    model, sequences = AutoModelForCausalLM.from_config(config).eval(), branching_sequences(16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.dim() >= 2 else 1)
    scorer = Scorer(model, CONTEXT)
    assert scorer.layout.pair_cost is None
    scores = scorer.score(Sequences.of(sequences))
    np.testing.assert_allclose(scores.logprob, one_by_one(model, sequences)[0], atol=1e-4)


def test_a_model_whose_own_code_refuses_our_masks_shares_nothing():
    config = XLMConfig(vocab_size=VOCAB, emb_dim=32, n_layers=2, n_heads=4, causal=True)
    model, sequences = AutoModelForCausalLM.from_config(config).eval(), branching_sequences(8)
    scorer = Scorer(model, CONTEXT)
    assert scorer.layout.pair_cost is None
    scores = scorer.score(Sequences.of(sequences))
    np.testing.assert_allclose(scores.logprob, one_by_one(model, sequences)[0], atol=1e-4)


def test_same_scores_twice_and_whatever_was_scored_between():
    scorer = Scorer(tiny_model("opt"), CONTEXT)
    sequences = Sequences.of(random_sequences(20))
    first = scorer.score(sequences).logprob
    scorer.score(Sequences.of(random_sequences(9, seed=1)))
    assert (scorer.score(sequences).logprob == first).all()


@pytest.mark.parametrize("architecture", CONFIGS)
def test_threads_that_share_out_batches_give_the_same_numbers(architecture, monkeypatch):
    model, sequences = tiny_model(architecture), Sequences.of(random_sequences(80))
    monkeypatch.setitem(scoring.TOKENS_PER_BATCH, "cpu", 96)
    scorer = Scorer(model, CONTEXT)
    alone = scorer.score(sequences)
    torch.set_num_threads(3)
    try:
        shared = scorer.score(sequences)
        assert torch.get_num_threads() == 3
        with monkeypatch.context() as patch:
            patch.setattr(scorer, "read_and_score", lambda number, batch, greedy: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                scorer.score(sequences)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert (shared.logprob == alone.logprob).all() and (shared.greedy == alone.greedy).all()


def refuse_large(model, positions: int, seen: list[int]):
    """The model as on a device that runs out of memory above so many positions a batch."""

    def hook(module, args, kwargs):
        seen.append(kwargs["input_ids"].numel())
        if seen[-1] > positions:
            raise torch.OutOfMemoryError

    return model.base_model.register_forward_pre_hook(hook, with_kwargs=True)


def test_out_of_memory_halves_the_batches_of_the_model_and_scores_all_again():
    model, sequences = tiny_model("gpt2"), Sequences.of(random_sequences(120))
    scorer = Scorer(model, CONTEXT)
    expected = scorer.score(sequences)
    assert scorer.tokens_per_batch == TOKENS_PER_BATCH["cpu"]
    seen: list[int] = []
    hook = refuse_large(model, 600, seen)
    scores = scorer.score(sequences)
    hook.remove()
    np.testing.assert_allclose(scores.logprob, expected.logprob, atol=1e-4)
    assert (scores.greedy == expected.greedy).all()
    assert scorer.tokens_per_batch == 512 and max(seen) > 600
    # The numbers are those of a model that had small batches from the start.
    again = Scorer(model, CONTEXT)
    again.tokens_per_batch = 512
    assert (again.score(sequences).logprob == scores.logprob).all()


def test_the_largest_batch_is_tried_first_when_probing():
    model, seen = tiny_model("gpt_neox"), []
    scorer = Scorer(model, CONTEXT)
    hook = refuse_large(model, 300, seen)
    scorer.probe()
    assert scorer.tokens_per_batch == 256
    assert seen[0] == TOKENS_PER_BATCH["cpu"] // CONTEXT * CONTEXT
    seen.clear()
    scorer.score(Sequences.of(random_sequences(100)))
    hook.remove()
    assert max(seen) <= 256


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])  # with and without a mask
def test_probing_tries_trees_too(dtype):
    model, tried = tiny_model("gpt_neox").to(dtype), []
    scorer = Scorer(model, CONTEXT)
    hook = model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: tried.append((kwargs["input_ids"], "position_ids" in kwargs)),
        with_kwargs=True,
    )
    scorer.probe()
    hook.remove()
    assert not tried[0][1]
    trees = [ids for ids, is_tree in tried if is_tree]
    assert trees[0].numel() > 0.9 * TOKENS_PER_BATCH["cpu"]


def test_a_sequence_too_large_by_itself_is_an_error():
    model = tiny_model("gpt2")
    scorer = Scorer(model, CONTEXT)
    hook = refuse_large(model, 10, [])
    with pytest.raises(torch.OutOfMemoryError):
        scorer.score(Sequences.of([(list(range(20)), 1)]))
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
    scores = Scorer(model, CONTEXT).score(Sequences.of(sequences))
    np.testing.assert_allclose(scores.logprob, one_by_one(model, sequences)[0], atol=1e-3)


def test_a_diverged_model_scores_nan():
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(torch.nan)
    scores = Scorer(model, CONTEXT).score(Sequences.of(random_sequences(5)))
    assert np.isnan(scores.logprob).all() and not scores.greedy.all()


def test_greedy_flags_are_left_out_where_nobody_asks():
    scorer, sequences = Scorer(tiny_model("gpt2"), CONTEXT), Sequences.of(random_sequences(20))
    asked, spared = scorer.score(sequences), scorer.score(sequences, greedy=False)
    assert spared.greedy is None and (spared.logprob == asked.logprob).all()
    assert scorer.score(Sequences.of([]), greedy=False).greedy is None
