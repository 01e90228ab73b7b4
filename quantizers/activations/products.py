"""Products of integer activations and integer weights whose sums are exact."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantizers.activations.codes import Codes
from quantizers.outliers import PackedMatrix
from quantizers.packing import unpack

_EXACT = 2**24  # fp32 holds all whole numbers up to here
_SHORTEST = 128  # columns; below, fp64 is as fast, and TF32 would not hold the weights


@dataclass(frozen=True)
class IntegerWeight:
    """W [d_out, d_in] ~ values * the scale of the row's group."""

    values: Tensor  # int8 or int16 [d_out, d_in], from -limit to limit
    scales: Tensor  # fp32 [d_out, groups]
    group: int  # columns that share a scale; the last group may be short
    limit: int


def integer_weight(matrix: PackedMatrix, data_type: str | None) -> IntegerWeight | None:
    """The weights as integers, or None where products would not be: another data type than int,
    centered blocks, columns kept in 16 bit, blocks that begin or end within rows of their own.
    """
    q = matrix.body
    if data_type != "int" or q.mean is not None or matrix.columns.numel():
        return None
    d_out, d_in = q.shape
    blocks = q.blocks
    if blocks.row == d_in:  # each row cut apart
        owner = torch.arange(d_out * blocks.a_row).view(d_out, blocks.a_row)
    elif d_in % blocks.size == 0:
        owner = torch.arange(q.n // blocks.size).view(d_out, -1)
    elif blocks.size % d_in == 0 or blocks.size >= q.n:
        owner = (torch.arange(d_out) * d_in // blocks.size)[:, None]
    else:
        return None
    limit = 2 ** (q.bits - 1) - 1
    values = (unpack(q.words, q.bits, q.n) - limit).to(torch.int8 if limit < 128 else torch.int16)
    scales = q.absmax.float()[owner.to(q.device)] / limit
    return IntegerWeight(values.view(d_out, d_in), scales, min(blocks.size, d_in), limit)


def integer_product(x: Codes, w: IntegerWeight) -> Tensor:
    """fp32 [tokens, d_out]: the exact sum of each group of columns, rounded to fp32 once, times
    the group's and the token's scale; groups are added in fp32, in order."""
    result = torch.zeros(len(x.values), len(w.values), device=x.values.device)
    for g, begin in enumerate(range(0, w.values.shape[1], w.group)):
        columns = slice(begin, begin + w.group)
        sums = exact_sums(x.values[:, columns], w.values[:, columns], x.limit * w.limit)
        result.addcmul_(sums.float(), w.scales[:, g].expand_as(sums))
    return result.mul_(x.scale)


def exact_sums(x: Tensor, w: Tensor, largest: int) -> Tensor:
    """x w^T of whole numbers: x fp32 [tokens, K], w int [d_out, K], |x_i w_j| <= largest.

    Exact, in int32, fp32 or fp64: by `torch._int_mm` on CUDA where the shape fits; else in fp32
    products short enough that no sum passes 2^24 (K <= 1040 for int8 x int8), added in fp64.
    """
    n = x.shape[1]
    if _fits_int_mm(x, w):
        # Its second matrix must be a column-major view of contiguous rows.
        return torch._int_mm(x.to(torch.int8).contiguous(), w.contiguous().T)
    longest = _EXACT // largest
    if n <= longest and longest >= _SHORTEST:
        return x @ w.float().T
    if longest < _SHORTEST:
        return x.double() @ w.double().T
    sums = torch.zeros(len(x), len(w), dtype=torch.float64, device=x.device)
    for begin in range(0, n, longest):
        chunk = slice(begin, begin + longest)
        sums += x[:, chunk] @ w[:, chunk].float().T
    return sums


def _fits_int_mm(x: Tensor, w: Tensor) -> bool:
    """More than 16 rows, K and N multiples of 8: cuBLAS's conditions."""
    shapes = len(x) > 16 and x.shape[1] % 8 == 0 and len(w) % 8 == 0
    return x.device.type == "cuda" and w.dtype == torch.int8 and shapes
