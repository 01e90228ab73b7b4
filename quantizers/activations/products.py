"""Weights as integers, for products whose sums are exact."""

from __future__ import annotations

import torch

from quantizers.integers import IntegerWeight
from quantizers.outliers import PackedMatrix
from quantizers.packing import unpack


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
