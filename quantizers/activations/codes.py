"""Rows of activations as integers times a scale; symmetric, halves to even."""

from __future__ import annotations

import torch
from torch import Tensor

from quantizers.integers import Codes


def token_codes(x: Tensor, bits: int) -> Codes:
    """x [tokens, d_in], any floating type: the scale of a row is max|x| / limit, 1 for zeros."""
    limit = 2 ** (bits - 1) - 1
    x = x.float()
    scale = x.abs().amax(1, keepdim=True) / limit
    return _codes(x, torch.where(scale == 0, 1.0, scale), limit)


def tensor_codes(x: Tensor, bits: int, maximum: float) -> Codes:
    """The scale of all rows is maximum / limit; what lies beyond the maximum clamps to it."""
    limit = 2 ** (bits - 1) - 1
    x = x.float()
    scale = x.new_full((len(x), 1), (maximum / limit) or 1.0)
    finite = torch.isfinite(x.abs().amax(1, keepdim=True))  # else clamping would hide it
    return _codes(x, torch.where(finite, scale, torch.nan), limit)


def _codes(x: Tensor, scale: Tensor, limit: int) -> Codes:
    scale = torch.where(torch.isfinite(scale), scale, torch.nan)
    values = torch.round(x / scale).clamp_(-limit, limit).nan_to_num_(0.0)
    return Codes(values.to(torch.int8), scale, limit)
