"""Rows of activations as integers times a scale; symmetric, halves to even."""

from __future__ import annotations

from torch import Tensor

from quantizers.integers import Codes
from quantizers.kernels import round_rows


def token_codes(x: Tensor, bits: int) -> Codes:
    """x [tokens, d_in], any floating type: the scale of a row is max|x| / limit, 1 for zeros."""
    return round_rows(x, 2 ** (bits - 1) - 1)


def tensor_codes(x: Tensor, bits: int, maximum: float) -> Codes:
    """The scale of all rows is maximum / limit; what lies beyond the maximum clamps to it."""
    limit = 2 ** (bits - 1) - 1
    return round_rows(x, limit, maximum / limit)
