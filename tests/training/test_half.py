"""Half precision: products are fp32 ones rounded once, masters stay fp32, overflow skips."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from training.errors import Diverged
from training.half import RoundedProducts
from training.loop import TrainingRun

STREAM = torch.randint(0, 300, (5000,), generator=torch.Generator().manual_seed(0))


def half(*shape: int, seed: int = 0) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.half().requires_grad_()


def both(function, *inputs):
    """Outputs and gradients: emulated in half, and in fp32 from the same values, then rounded."""
    wide = [x.detach().float().requires_grad_() for x in inputs]
    with RoundedProducts():
        out = function(*inputs)
        out.backward(torch.ones_like(out))
    reference = function(*wide)
    reference.backward(torch.ones_like(reference))
    assert out.dtype == torch.float16
    yield out, reference.half()
    for x, y in zip(inputs, wide, strict=True):
        yield x.grad, y.grad.half()


def test_products_are_fp32_sums_rounded_once():
    for got, expected in both(F.linear, half(8, 64), half(32, 64, seed=1), half(32, seed=2)):
        assert torch.equal(got, expected)
    for got, expected in both(torch.bmm, half(2, 8, 64), half(2, 64, 16, seed=1)):
        assert torch.equal(got, expected)


def test_layer_norm_computes_in_fp32():
    x = (half(16, 64).detach() * 300 + 1000).requires_grad_()  # x * x overflows fp16

    def norm(x, gain, bias):
        return F.layer_norm(x, (64,), gain, bias)

    for got, expected in both(norm, x, half(64, seed=1), half(64, seed=2)):
        assert torch.isfinite(got).all()
        assert torch.equal(got, expected)


def test_attention_rounds_its_output_once():
    shape = (2, 4, 32, 16)

    def attention(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    for got, expected in both(attention, half(*shape), half(*shape, seed=1), half(*shape, seed=2)):
        assert torch.allclose(got.float(), expected.float(), atol=2e-3, rtol=2e-3)


def test_gradients_of_a_frequent_token_are_summed_in_fp32():
    ids = torch.zeros(4096, dtype=torch.int64)
    table = half(10, 8)
    with RoundedProducts():
        F.embedding(ids, table).backward(torch.full((4096, 8), 0.25, dtype=torch.float16))
    assert torch.equal(table.grad[0], torch.full((8,), 1024.0, dtype=torch.float16))


@pytest.mark.parametrize("architecture", ["gpt_neox", "opt", "llama", "bloom"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_everything_but_the_masters_is_half(tiny_recipe, architecture, dtype):
    recipe = replace(tiny_recipe, architecture=architecture, dtype=dtype)
    run = TrainingRun(recipe, STREAM, 0)
    expected = torch.float16 if dtype == "fp16" else torch.bfloat16
    seen = set()
    for module in run.model.modules():
        if not list(module.children()):
            module.register_forward_hook(
                lambda m, i, o: seen.add(o.dtype) if isinstance(o, torch.Tensor) else None
            )
    run.step()
    assert seen == {expected}
    assert {p.dtype for p in run.model.parameters()} == {expected}
    assert {p.dtype for p in run.weights.parameters} == {torch.float32}
    for _ in range(9):
        run.step()
    assert run.history.losses[-1] < run.history.losses[0]
    masters = run.weights.parameters
    assert all(
        torch.equal(p, m.to(expected)) for p, m in zip(run.model.parameters(), masters, strict=True)
    )
    # Small updates are not lost: masters hold what half cannot.
    assert any((m != m.to(expected).float()).any() for m in masters)


def test_bf16_follows_fp32(tiny_recipe):
    losses = {}
    for dtype in ("fp32", "bf16"):
        run = TrainingRun(replace(tiny_recipe, dtype=dtype), STREAM, 0)
        for _ in range(10):
            run.step()
        losses[dtype] = torch.tensor(run.history.losses)
    assert torch.allclose(losses["fp32"], losses["bf16"], atol=0.02)
    assert not torch.equal(losses["fp32"], losses["bf16"])


def test_fp16_overflow_skips_the_step_and_halves_the_scale(tiny_recipe):
    recipe = replace(tiny_recipe, dtype="fp16", loss_scale=2.0**40, loss_scale_growth=4)
    run = TrainingRun(recipe, STREAM, 0)
    before = [p.clone() for p in run.weights.parameters]
    run.step()
    assert run.history.skipped == [1] and run.history.losses == []
    assert all(map(torch.equal, before, run.weights.parameters))
    assert run.history.loss_scale == 2.0**39
    while not run.history.losses:
        run.step()
    scale = run.history.loss_scale
    for _ in range(3):
        run.step()
    assert run.history.loss_scale == 2 * scale  # after four good steps
    assert run.history.step == len(run.history.skipped) + len(run.history.losses)


def test_the_loss_scale_does_not_change_the_update(tiny_recipe):
    runs = [
        TrainingRun(replace(tiny_recipe, dtype="fp16", loss_scale=s), STREAM, 0)
        for s in (2.0**10, 2.0**12)
    ]
    for run in runs:
        run.step()
    assert runs[0].history.norms[0] == pytest.approx(runs[1].history.norms[0], rel=1e-3)


def test_a_run_that_diverges_says_so(tiny_recipe):
    run = TrainingRun(tiny_recipe, STREAM, 0)
    with torch.no_grad():
        run.weights.parameters[0].fill_(float("nan"))
    with pytest.raises(Diverged, match="step 1: loss nan"):
        run.step()
