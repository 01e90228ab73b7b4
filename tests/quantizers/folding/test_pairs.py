"""AWQ's scales between matrices: values and attention output, up and down projection."""

from dataclasses import replace

import pytest
import torch

from quantizers.calibration import Statistics, collect
from quantizers.folding.awq import awq
from quantizers.folding.method import Method
from quantizers.folding.norms import choose
from quantizers.outliers import dequantize_matrix, quantize_matrix
from quantizers.setting import Setting
from quantizers.undo import UndoLog
from quantizers.wiring import wiring_of
from tests.quantizers.folding.folded import exact_model, put_weights
from tests.quantizers.tiny_models import LAYERS, VOCAB, logits

WINDOWS = torch.randint(VOCAB, (4, 20), generator=torch.Generator().manual_seed(3))
SETTING = Setting.make(3, "int", block_size={"group": 8})


def rounded(weight):
    return dequantize_matrix(quantize_matrix(weight.contiguous(), SETTING))


def folded(name):
    model = exact_model(name)
    wiring = wiring_of(model)
    statistics = dict(collect(model, wiring, WINDOWS))
    return model, wiring, choose(Method("awq"), wiring, statistics, rounded=rounded), statistics


@pytest.mark.parametrize(
    ("name", "a_block"),
    [("gpt2", 1), ("opt", 2), ("gpt_neox", 1), ("bloom", 1), ("llama", 2), ("qwen3", 2)]
    + [("falcon", 1), ("falcon-40b", 1), ("gptj", 1), ("phi", 1)],
)
def test_the_function_is_unchanged_and_undo_is_bit_for_bit(name, a_block):
    model, wiring, folding, statistics = folded(name)
    assert len(folding.pairs) == a_block * LAYERS
    assert {s.kind for s in wiring.linear if s.name in folding.pairs} <= {
        "attention_output",
        "down",
    }
    assert any(pair.columns.unique().numel() > 1 for pair in folding.pairs.values())
    folding.check(model, wiring)
    before, parameters = logits(model), [p.detach().clone() for p in model.parameters()]
    log = UndoLog(torch.float16)
    matrices = {s.name: folding.weight(s) for s in wiring.linear if folding.touches(s)}
    put_weights(wiring, matrices, log)
    folding.put(model, log, torch.float32)
    assert (logits(model) - before).norm() / before.norm() <= 1e-5
    seen = dict(collect(model, wiring, WINDOWS))
    for name, pair in folding.pairs.items():
        expected = statistics[name].channel_max / pair.columns
        torch.testing.assert_close(seen[name].channel_max, expected, rtol=1e-4, atol=1e-5)
    log.undo()
    assert all(map(torch.equal, model.parameters(), parameters))


@pytest.mark.parametrize("kind", ["attention_output", "down"])
def test_rows_divided_that_are_not_those_read_are_noticed(kind):
    model, wiring, folding, _ = folded("llama")
    site = next(s for s in wiring.linear if s.kind == kind)
    pair = folding.pairs[site.name]
    wrong = replace(pair, rows=pair.rows.roll(1))
    folding = replace(folding, pairs={**folding.pairs, site.name: wrong})
    with pytest.raises(ValueError, match=rf"{site.name} behind {pair.source} changes by"):
        folding.check(model, wiring)
    assert not any(module._forward_hooks for module in model.modules())


def test_pairs_of_a_model_in_half_precision_are_checked_to_its_rounding():
    model, wiring, folding, _ = folded("llama")
    half = wiring_of(model.bfloat16())
    folding.check(model, half)
    site = next(s for s in half.linear if s.name in folding.pairs)
    pair = folding.pairs[site.name]
    wrong = replace(pair, columns=pair.columns.roll(1))
    with pytest.raises(ValueError, match=rf"{site.name} behind {pair.source} changes by"):
        replace(folding, pairs={**folding.pairs, site.name: wrong}).check(model, half)


def test_heads_that_share_a_value_share_its_scale():
    _, wiring, folding, _ = folded("llama")
    site = next(s for s in wiring.linear if s.kind == "attention_output")
    s = folding.pairs[site.name].columns.view(2, 2, -1)  # key-value heads, queries a head
    assert torch.equal(s[:, 0], s[:, 1])


def test_units_share_the_mean_of_what_they_produce():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 4, generator=generator) * torch.tensor([1.0, 3.0, 40.0, 60.0])
    weight = torch.randn(16, 4, generator=generator)
    statistics = Statistics(
        len(x), x.abs().amax(0), x.abs().mean(0), torch.zeros(0), 2 / len(x) * x.T @ x
    )
    apart = awq(statistics, [weight], rounded)
    shared = awq(statistics, [weight], rounded, torch.tensor([0, 0, 1, 1]))
    assert shared[0] == shared[1] != shared[2] == shared[3]
    assert len(set(apart.tolist())) == 4
