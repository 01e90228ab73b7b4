"""GPTQ against the published algorithm, written out in fp64, and what must hold of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from quantizers.blockwise import dequantize, quantize, residual, scaled, spread
from quantizers.codebooks import codebook, quantile
from quantizers.granularity import ROW, TENSOR, Granularity
from quantizers.packed import sixteen_bit
from quantizers.packing import unpack
from quantizers.rounding import cpu_gptq
from quantizers.rounding.factor import NotPositiveDefinite, factor, invert_unit_triangle
from quantizers.rounding.gptq import TILE, gptq, solve
from quantizers.rounding.problem import Problem

HALF, BF16, FULL = torch.float16, torch.bfloat16, torch.float32
GRANULARITIES = [
    Granularity(1),
    Granularity(7),
    Granularity(64),
    Granularity(100),
    ROW,
    TENSOR,
    Granularity(40, by_row=True),
]
MARGIN = 1e-6  # relative: nearer to the middle between two codes, either may be right


def weights(d_out, d_in, dtype=HALF, seed=0):
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(d_out, d_in, generator=generator).mul(0.05)
    w[:, 2] *= 8
    return w.to(dtype)


def hessian(d_in, seed=1, n=400):
    """Of correlated inputs, two channels of them far larger."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d_in, d_in, generator=generator)
    x = torch.randn(n, d_in, generator=generator) @ mix
    x[:, [1, d_in // 2]] *= 20
    return 2 * x.T @ x / n


def problem(weight, bits=3, data_type="int", granularity=ROW, centered=False, kept=0):
    """With the scales of rounding to nearest."""
    body = weight[:, : weight.shape[1] - kept].contiguous()
    if data_type == "quantile":
        table = quantile(bits, residual(body, granularity, centered))
    else:
        table = codebook(data_type, bits)
    return Problem(weight, scaled(body, table, bits, granularity, centered))


def codes_of(q):
    return unpack(q.words, q.bits, q.n).view(q.shape)


def solved(given, factored):
    """(codes, kept) of one problem whose q is not touched."""
    copied = replace(given, q=replace(given.q, words=torch.full_like(given.q.words, -1)))
    [rounded] = gptq([copied], factored)
    return codes_of(copied.q), rounded.kept, rounded.losses, copied.q


def published(given, h, order=True, damping=0.01):
    """The algorithm of Frantar et al., row by row and column by column, in fp64.

    Returns (codes, kept, margin of each decision), columns where they were.
    """
    w, q = given.weight.double().numpy(), given.q
    n, body = w.shape[1], q.shape[1]
    scale = spread(q.absmax.double(), q.blocks).view(q.shape).numpy()
    mean = np.zeros_like(scale)
    if q.mean is not None:
        mean = spread(q.mean.double(), q.blocks).view(q.shape).numpy()
    table = q.codebook.numpy()
    middle = ((table[1:] + table[:-1]) * np.float32(0.5)).astype(np.float64)
    h = h.double().numpy().copy()
    dead = np.diag(h) == 0
    damp = damping * np.diag(h)[~dead].mean()
    steps = np.arange(n)
    if order:
        steps[:body] = np.argsort(-np.diag(h)[:body], kind="stable")
    h[dead, dead] = 1
    h[~dead, ~dead] += damp
    upper = np.linalg.cholesky(np.linalg.inv(h[np.ix_(steps, steps)])).T
    codes, margins = np.zeros((len(w), body), int), np.full(w.shape, np.inf)
    kept = np.zeros((len(w), n - body))
    for row in range(len(w)):
        left = w[row, steps].copy()
        for i, column in enumerate(steps):
            if column >= body:
                value = torch.tensor(left[i]).float().to(sixteen_bit(q.dtype)).double().item()
                kept[row, column - body] = value
            else:
                m, c = scale[row, column], mean[row, column]
                x = (left[i] - c) / m if m else 0.0
                code = int((middle < x).sum())
                if m:  # a weight may be far from the mean it is compared with
                    nearest = np.abs(middle - x).min(initial=np.inf)
                    margins[row, i] = nearest * m / max(m, abs(left[i]))
                exact = np.float32(np.float32(table[code]) * np.float32(m))
                exact = np.float32(exact + np.float32(c)) if q.mean is not None else exact
                value = torch.tensor(exact).to(q.dtype).double().item()
                codes[row, column] = code
            error = (left[i] - value) / upper[i, i]
            left[i + 1 :] -= error * upper[i, i + 1 :]
    return codes, kept, margins, steps


def assert_same_but_for_margins(given, h, order=True):
    """Rows may part at a decision that the reference itself finds too close to call."""
    n_kept = given.weight.shape[1] - given.q.shape[1]
    codes, kept, losses, _ = solved(given, factor(h, n_kept, order))
    expected, expected_kept, margins, steps = published(given, h, order)
    parted, body = 0, given.q.shape[1]
    for row in range(len(codes)):
        close = np.flatnonzero(margins[row] < MARGIN)
        sure = close[0] if len(close) else len(steps)
        columns = [c for c in steps[:sure] if c < body]
        assert codes[row, columns].tolist() == expected[row, columns].tolist()
        parted += sure < len(steps)
        if sure == len(steps) and n_kept:
            torch.testing.assert_close(
                kept[row].double(), torch.from_numpy(expected_kept[row]), rtol=2e-3, atol=1e-4
            )
    if not (given.q.granularity.size == 1 and given.q.mean is not None):  # then all are close
        assert parted <= len(codes) // 4
    return losses


@pytest.mark.parametrize("kept", [0, 3])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize(
    ("bits", "data_type", "dtype"),
    [
        (2, "int", HALF),
        (3, "float", BF16),
        (4, "quantile", FULL),
        (6, "dynamic", HALF),
        (9, "int", HALF),
    ],
)
def test_codes_are_those_of_the_published_algorithm(
    bits, data_type, dtype, granularity, centered, kept
):
    w = weights(10, 99, dtype)
    assert_same_but_for_margins(
        problem(w, bits, data_type, granularity, centered, kept), hessian(99)
    )


def test_columns_as_they_come():
    assert_same_but_for_margins(
        problem(weights(20, 99), 3, "float", Granularity(32)), hessian(99), order=False
    )


def test_the_plain_path_of_other_devices_agrees():
    """The same loop in torch's operations; sums in another order, so codes too close may differ."""
    h = hessian(300)
    given = [
        problem(weights(70, 300), 3, "int", Granularity(64), kept=4),
        problem(weights(130, 300, seed=5), 8, "dynamic", Granularity(7, True), True, 4),
        problem(weights(1, 300, BF16), 2, "quantile", TENSOR, kept=4),
    ]
    f = factor(h, 4)
    pairs = list(zip(solve(given, f), cpu_gptq.solve(given, f), strict=True))
    for (codes, kept, losses), (compiled, compiled_kept, compiled_losses) in pairs:
        assert (codes != compiled.long()).float().mean() < 3e-3
        torch.testing.assert_close(losses, compiled_losses, rtol=5e-2, atol=1e-9)
        assert kept.shape == compiled_kept.shape == (len(codes), 4)


# --- what must hold (design, section 4) ---


@pytest.mark.parametrize("kept", [0, 3])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("path", [solve, cpu_gptq.solve])
def test_a_diagonal_hessian_rounds_to_nearest(path, granularity, centered, kept):
    w = weights(67, 130)
    h = torch.diag(torch.rand(130, generator=torch.Generator().manual_seed(2)) + 0.1)
    given = problem(w, 4, "float", granularity, centered, kept)
    [(codes, columns, _)] = path([given], factor(h, kept))
    body = w[:, : 130 - kept].contiguous()
    nearest = quantize(body, given.q.codebook, 4, granularity, centered)
    assert torch.equal(codes.long(), codes_of(nearest))
    assert torch.equal(columns.half(), w[:, 130 - kept :])


@pytest.mark.parametrize("exponent", [-40, -3, 10, 60])
def test_scaling_the_hessian_by_a_power_of_two_changes_no_bit(exponent):
    h = hessian(80)
    h[:, 5] = h[5] = 0  # nor with a dead column
    given = problem(weights(33, 80), 3, "float", Granularity(16), kept=2)
    once, again = (solved(given, factor(x, 2)) for x in (h, h * 2.0**exponent))
    assert torch.equal(once[0], again[0]) and torch.equal(once[1], again[1])
    assert torch.equal(once[2] * 2.0**exponent, again[2])


def test_the_losses_are_the_output_error():
    h = hessian(120)
    for dtype, centered, kept in ((HALF, False, 0), (BF16, True, 4), (FULL, False, 4)):
        given = problem(weights(50, 120, dtype), 3, "int", Granularity(32), centered, kept)
        _, columns, losses, q = solved(given, factor(h, kept))
        delta = torch.cat([dequantize(q).double(), columns.double()], 1) - given.weight.double()
        damped = h.double() + torch.eye(120) * 0.01 * h.double().diagonal().mean()
        torch.testing.assert_close(losses, (delta @ damped * delta).sum(1), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("path", ["compiled", "plain"])
def test_alone_and_stacked_are_the_same_bits(path, threads):
    """q, k and v, and settings of all kinds; rows that fill tiles, or not."""
    h, find = hessian(96), {"compiled": cpu_gptq.solve, "plain": solve}[path]
    given = [
        problem(weights(rows, 96, seed=rows), bits, data_type, granularity, bits == 4, kept=2)
        for rows, bits, data_type, granularity in [
            (1, 3, "int", Granularity(64)),
            (63, 4, "float", ROW),
            (64, 2, "dynamic", Granularity(7)),
            (65, 8, "int", TENSOR),
            (200, 5, "quantile", Granularity(40, True)),
        ]
    ]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        f = factor(h, 2)
        together = find(given, f)
        for one, parts in zip(given, together, strict=True):
            [alone] = find([one], f)
            assert all(torch.equal(a, b) for a, b in zip(alone, parts, strict=True))
        w = given[4].weight[:TILE]
        assert len(w) == TILE
    finally:
        torch.set_num_threads(before)


def test_a_small_case_worked_by_hand_where_nearest_is_better():
    """Codes -1, 0, 1 times 1; damping .01 of the mean diagonal; as it comes."""
    w = torch.tensor([[1, 0.5, -0.3], [-0.4, 1, 0.2]])
    h = torch.tensor([[6.0, 3, 2], [3, 3, 3], [2, 3, 6]])
    given = problem(w, 2, "int", TENSOR)
    f = factor(h, order=False)
    codes, _, losses, q = solved(given, f)
    assert dequantize(q).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert losses.sum().item() == pytest.approx(2.377, abs=5e-4)
    nearest = dequantize(quantize(w, codebook("int", 2), 2))
    error = {
        n: float(((v - w) @ h * (v - w)).sum())
        for n, v in (("gptq", dequantize(q)), ("nearest", nearest))
    }
    assert error == {
        "gptq": pytest.approx(2.27, abs=5e-3),
        "nearest": pytest.approx(1.27, abs=5e-3),
    }


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("granularity", [Granularity(32), ROW], ids=str)
def test_it_is_better_than_nearest_on_correlated_inputs(bits, granularity):
    w, h = weights(64, 128), hessian(128)
    given = problem(w, bits, "int", granularity)
    *_, q = solved(given, factor(h))
    nearest = dequantize(quantize(w, given.q.codebook, bits, granularity))
    gptq_error, error = (
        ((v.float() - w.float()) @ h * (v.float() - w.float())).sum()
        for v in (dequantize(q), nearest)
    )
    assert gptq_error < 0.9 * error


# --- the factor ---


def test_dead_columns_are_counted_and_rounded_to_nearest():
    h = hessian(64)
    dead = [0, 9, 63]
    h[dead] = 0
    h[:, dead] = 0
    given = problem(weights(20, 64), 3, "float", Granularity(16))
    f = factor(h)
    assert f.dead.nonzero().flatten().tolist() == dead
    codes, *_ = solved(given, f)
    nearest = codes_of(quantize(given.weight, given.q.codebook, 3, Granularity(16)))
    assert torch.equal(codes[:, dead], nearest[:, dead])
    assert not torch.equal(codes, nearest)
    assert factor(torch.zeros(8, 8)).dead.all()  # nothing ever comes in


def test_order_is_by_the_diagonal_ties_to_the_lower_index_and_kept_columns_last():
    h = torch.diag(torch.tensor([1.0, 5, 1, 7, 5, 9]))
    assert factor(h, kept=1).order.tolist() == [3, 1, 4, 0, 2, 5]
    assert factor(h, kept=1, order=False).order.tolist() == list(range(6))


def test_a_factorization_that_fails_raises_the_damping_and_says_when_it_gives_up():
    flat = torch.ones(6, 6)  # of rank 1: with no damping not positive definite
    flat[0, 1] = flat[1, 0] = 1.05
    raised = factor(flat, damping=0.01)
    assert raised.damping == pytest.approx(0.1)
    flat[0, 1] = flat[1, 0] = 100.0
    with pytest.raises(NotPositiveDefinite, match="layers.3.qkv: the Hessian cannot be factored"):
        factor(flat, name="layers.3.qkv")
    with pytest.raises(ValueError, match="fc1: the Hessian has NaN or inf"):
        factor(torch.full((2, 2), torch.nan), name="fc1")


@pytest.mark.parametrize("n", [1, 255, 256, 257, 700])
def test_triangles_are_inverted(n):
    lower = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    lower = lower.tril(-1) / n + torch.eye(n)
    assert torch.allclose(invert_unit_triangle(lower) @ lower, torch.eye(n).double(), atol=1e-12)


def test_a_kept_column_that_overflows_is_an_error():
    w = torch.tensor([[65504.0, 0], [30000, 65504]])  # 30000 rounds to 0, and its error goes on
    h = torch.tensor([[1.0, 0.9], [0.9, 1]])
    with pytest.raises(ValueError, match="overflows"):
        gptq([problem(w, 2, "int", TENSOR, kept=1)], factor(h, 1))
