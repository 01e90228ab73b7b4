"""Weights as integers, for products whose sums are exact."""

from __future__ import annotations

import torch
from torch import Tensor

from quantizers.data_types import BYTE_TYPES
from quantizers.integers import IntegerWeight, PackedIntegers
from quantizers.outliers import PackedMatrix
from quantizers.packed import PackedTensor
from quantizers.packing import unpack


def integer_weight(matrix: PackedMatrix, data_type: str | None) -> IntegerWeight | None:
    """The weights as integers, or None where products would not be: a data type whose values are
    none (neither int nor one of BYTE_TYPES), centered blocks, columns kept in 16 bit, blocks that
    begin or end within rows of their own."""
    q = matrix.body
    owner = _owner(matrix)
    if owner is None or (data_type != "int" and data_type not in BYTE_TYPES):
        return None
    limit = _limit(q, data_type)
    codes = unpack(q.words, q.bits, q.n)
    if data_type == "int":
        values = (codes - limit).to(torch.int8 if limit < 128 else torch.int16)
    else:
        values = _bytes(q)[codes]
    scales = q.absmax.float()[owner] / limit
    return IntegerWeight(values.view(q.shape), scales, min(q.blocks.size, q.shape[1]), limit)


def packed_integers(matrix: PackedMatrix, data_type: str | None) -> PackedIntegers | None:
    """The same of 4-bit weights as they are packed, or None; rows take whole words."""
    q, owner = matrix.body, _owner(matrix)
    known = data_type == "int" or data_type in BYTE_TYPES
    if owner is None or not known or q.bits != 4 or q.shape[1] % 8:
        return None
    limit = _limit(q, data_type)
    if data_type == "int":
        table = torch.arange(16, device=q.device).sub(limit).clamp(max=limit).to(torch.int8)
    else:
        table = _bytes(q)
    scales = q.absmax.float()[owner] / limit
    return PackedIntegers(q.words, table, scales, min(q.blocks.size, q.shape[1]), limit)


def _owner(matrix: PackedMatrix) -> Tensor | None:
    """The block of each group of columns, [d_out, groups], where rows and blocks fit each other."""
    q = matrix.body
    if q.mean is not None or matrix.columns.numel():
        return None
    (d_out, d_in), blocks = q.shape, q.blocks
    if blocks.row == d_in:  # each row cut apart
        owner = torch.arange(d_out * blocks.a_row).view(d_out, blocks.a_row)
    elif d_in % blocks.size == 0:
        owner = torch.arange(q.n // blocks.size).view(d_out, -1)
    elif blocks.size % d_in == 0 or blocks.size >= q.n:
        owner = (torch.arange(d_out) * d_in // blocks.size)[:, None]
    else:
        return None
    return owner.to(q.device)


def _limit(q: PackedTensor, data_type: str | None) -> int:
    return 2 ** (q.bits - 1) - 1 if data_type == "int" else 127


def _bytes(q: PackedTensor) -> Tensor:
    """The codebook in 1/127, int8 [2^bits]; codes beyond it, which no quantizer writes, are 0."""
    table = torch.zeros(2**q.bits, dtype=torch.int8, device=q.device)
    table[: q.codebook.numel()] = torch.round(q.codebook * 127).to(torch.int8).to(q.device)
    return table
