"""Scales below the largest magnitude: a few weights saturate, all others are closer to a code."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from quantizers.codebooks import round_to_codebook
from quantizers.packed import PackedTensor

FACTORS = tuple(round(1 - 0.02 * i, 2) for i in range(21))  # 1.00, 0.98 ... 0.60
_CHUNK = 2**20  # weights at a time


def clipped(weight: Tensor, q: PackedTensor, importance: Tensor | None = None) -> PackedTensor:
    """q with the absmax of each block times the factor of least squared error.

    weight: what is packed into q, whose constants are those of rounding to nearest. The error is
    that of rounding to nearest against what it dequantizes to, in the weights' type; importance:
    what it counts at each column, fp32 [d_in] (the diagonal of the inputs' Hessian), None: 1. Each
    candidate is rounded to 16 bit; of equal errors the larger factor's is taken.
    """
    blocks, table = q.blocks, q.codebook.to(q.device)
    rows = weight.detach().reshape(-1, blocks.row)
    counted = torch.ones(1, 1, device=q.device)
    if importance is not None:
        counted = importance.to(q.device, torch.float32).expand(q.shape).reshape(-1, blocks.row)
    counted = counted.expand(rows.shape)
    chosen = q.absmax.clone()
    means = torch.zeros(blocks.count, device=q.device) if q.mean is None else q.mean.float()
    if blocks.a_row > 1:
        pieces = _padded(rows, blocks.size), _padded(counted, blocks.size)
    else:
        pieces = rows, counted
    step = max(1, _CHUNK // blocks.size)
    for begin in range(0, blocks.count, step):
        some = slice(begin, begin + step)
        w, counts = pieces[0][some].float(), pieces[1][some]
        mean, absmax = means[some, None], q.absmax[some]
        least = torch.full(absmax.shape, torch.inf, dtype=torch.float64, device=q.device)
        for factor in FACTORS:
            candidate = (absmax.float() * factor).to(absmax.dtype)
            scale = candidate.float()[:, None]
            x = torch.where(scale > 0, (w - mean) / scale, 0.0)
            value = (table[round_to_codebook(x, table)] * scale + mean).to(q.dtype).float()
            error = ((w - value).square() * counts).double().sum(1)
            better = error < least
            least = torch.where(better, error, least)
            chosen[some] = torch.where(better, candidate, chosen[some])
    return replace(q, absmax=chosen)


def _padded(rows: Tensor, size: int) -> Tensor:
    """Rows cut into blocks, [blocks, size], the last ones of rows filled up with zeros."""
    filled = torch.nn.functional.pad(rows, (0, -rows.shape[1] % size))
    return filled.reshape(-1, size)
