"""Clipped scales: the factor of each block that a plain search finds."""

import numpy as np
import pytest
import torch

from quantizers.blockwise import dequantize, quantize, residual, round_to_nearest, scaled
from quantizers.codebooks import codebook, quantile
from quantizers.granularity import ROW, TENSOR, Granularity
from quantizers.outliers import dequantize_matrix, quantize_matrix
from quantizers.rounding import clipped as module
from quantizers.rounding.clipped import FACTORS, clipped
from quantizers.setting import Setting

GRANULARITIES = [
    *(Granularity(n) for n in (1, 7, 64, 100)),
    *(ROW, TENSOR, Granularity(7, by_row=True)),
]


def weights(dtype, shape=(9, 40)):
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0)).mul(0.05)
    w.view(-1)[14:28] = 0
    return w.to(dtype)


def packed(w, table, bits, granularity, centered, importance=None):
    q = clipped(w, scaled(w, table, bits, granularity, centered), importance)
    round_to_nearest(w, q)
    return q


def searched(w, table, bits, granularity, centered, importance):
    """Block by block and factor by factor: the absmax of each."""
    plain = scaled(w, table, bits, granularity, centered)
    width = w.shape[1] if granularity.by_row else w.numel()
    costs = importance.expand(w.shape).reshape(-1, width)
    found, number = [], 0
    for row, cost in zip(w.reshape(-1, width), costs, strict=True):
        for block, c in zip(
            row.split(plain.blocks.size), cost.split(plain.blocks.size), strict=True
        ):
            best = (np.inf, None)
            for factor in FACTORS:
                absmax = (plain.absmax[number].float() * factor).to(plain.absmax.dtype)
                one = scaled(block, table, bits, TENSOR, centered)
                one.absmax[0] = absmax
                round_to_nearest(block, one)
                error = ((dequantize(one).double() - block.double()).square() * c).sum()
                if error < best[0] * (1 - 1e-6):
                    best = (error, absmax)
            found.append(best[1])
            number += 1
    return torch.stack(found)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
def test_the_factor_of_least_error_is_taken(granularity, centered, weighted, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 100)
    dtype = (torch.float16, torch.bfloat16, torch.float32)[len(str(granularity)) % 3]
    w = weights(dtype, (2 if granularity.size == 1 else 9, 40))  # the search is slow
    importance = torch.rand(40) if weighted else torch.ones(40)
    table = codebook("int", 3)
    q = packed(w, table, 3, granularity, centered, importance if weighted else None)
    expected = searched(w, table, 3, granularity, centered, importance)
    # Where two factors are as good but for rounding, either may be.
    assert (q.absmax == expected).float().mean() >= 0.95
    plain = quantize(w, table, 3, granularity, centered)
    errors = [
        ((dequantize(x).double() - w.double()).square() * importance).sum() for x in (q, plain)
    ]
    assert errors[0] <= errors[1]


def test_a_tie_keeps_the_larger_factor():
    w = torch.tensor([[1.0, -1.0], [0.0, 0.0]]).half()  # no error at 1, none in a block of zeros
    q = packed(w, codebook("int", 2), 2, Granularity(2), False)
    assert q.absmax.tolist() == [1, 0]
    assert torch.equal(dequantize(q), w)


def test_a_large_weight_is_clipped_where_it_costs_the_others():
    w = torch.full((1, 64), 0.6).half()
    w[0, 5] = 1
    q = packed(w, codebook("int", 2), 2, ROW, False)
    assert q.absmax.item() == pytest.approx(0.6, abs=1e-3)
    important = torch.ones(64)
    important[5] = 1e6
    assert packed(w, codebook("int", 2), 2, ROW, False, important).absmax.item() == 1


def test_quantile_tables_come_from_unclipped_scales_and_bits_stay():
    w = weights(torch.float16, (16, 64))
    setting = Setting.make(3, "quantile", block_size=32, centered=True, scales="clipped")
    q = quantize_matrix(w, setting)
    assert torch.equal(q.body.codebook, quantile(3, residual(w, Granularity(32), True)))
    plain = quantize_matrix(w, Setting.make(3, "quantile", block_size=32, centered=True))
    assert q.bytes_stored == plain.bytes_stored
    error = [(dequantize_matrix(x).float() - w.float()).square().sum() for x in (q, plain)]
    assert error[0] < error[1]


def test_kept_columns_are_not_in_it():
    w = weights(torch.float16, (16, 64))
    w[:, 3] *= 100
    columns = torch.tensor([3])
    setting = Setting.make(3, "int", block_size=None, scales="clipped")
    rest = [c for c in range(64) if c != 3]
    alone = quantize_matrix(w[:, rest].contiguous(), setting)
    assert torch.equal(
        dequantize_matrix(quantize_matrix(w, setting, columns))[:, rest], dequantize_matrix(alone)
    )
