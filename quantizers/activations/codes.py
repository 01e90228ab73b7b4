"""Rows of activations as integers times a scale; symmetric, halves to even."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quantizers.integers import Codes
from quantizers.kernels import round_rows


def token_codes(x: Tensor, bits: int) -> Codes:
    """x [tokens, d_in], any floating type: the scale of a row is max|x| / limit, 1 for zeros."""
    return round_rows(x, 2 ** (bits - 1) - 1)


def beyond(x: Tensor, bits: int, maximum: float) -> Tensor:
    """How many elements clamp at a static maximum: int64 []. Those below half a step beyond it are
    rounded to the last code."""
    clamps = maximum * (1 + 0.5 / (2 ** (bits - 1) - 1))
    return torch.count_nonzero(x.abs() > clamps)


def clamped_share(calls: Sequence[tuple[Tensor, int]]) -> float | None:
    """Of the elements of all calls, (how many clamp, how many there are); None: there were none."""
    calls = list(calls)  # threads append side by side
    total = sum(n for _, n in calls)
    return sum(int(beyond) for beyond, _ in calls) / total if total else None


def tensor_codes(x: Tensor, bits: int, maximum: float) -> Codes:
    """The scale of all rows is maximum / limit; what lies beyond the maximum clamps to it."""
    limit = 2 ** (bits - 1) - 1
    return round_rows(x, limit, maximum / limit)
