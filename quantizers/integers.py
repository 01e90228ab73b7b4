"""The values that integer products work on: rounded rows and rounded weights. See kernels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from quantizers.packing import unpack


@dataclass(frozen=True)
class Codes:
    """Rows of activations: x ~ values * scale."""

    values: Tensor  # int8 [tokens, d_in], from -limit to limit
    scale: Tensor  # fp32 [tokens, 1]; NaN for a token with NaN or inf, whose values are 0
    limit: int  # 2^(bits - 1) - 1

    @property
    def dequantized(self) -> Tensor:
        """fp32 [tokens, d_in]."""
        return self.values * self.scale


@dataclass(frozen=True)
class IntegerWeight:
    """W [d_out, d_in] ~ values * the scale of the row's group."""

    values: Tensor  # int8 or int16 [d_out, d_in], from -limit to limit
    scales: Tensor  # fp32 [d_out, groups]
    group: int  # columns that share a scale; the last group may be short
    limit: int

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    @cached_property
    def floats(self) -> Tensor:
        """The values in fp32, kept: for CPUs whose products are of floats."""
        return self.values.float()

    @cached_property
    def scales_of_groups(self) -> Tensor:
        """[groups, d_out], contiguous."""
        return self.scales.T.contiguous()


@dataclass(frozen=True)
class PackedIntegers:
    """Likewise, W of 4 bit, its rows still packed: values are table[code]."""

    words: Tensor  # int32 [d_out d_in / 8], see packing.py; d_in a multiple of 8
    table: Tensor  # int8 [16], from -limit to limit
    scales: Tensor  # fp32 [d_out, groups]
    group: int
    limit: int

    @property
    def shape(self) -> torch.Size:
        d_out = len(self.scales)
        return torch.Size((d_out, self.words.numel() * 8 // d_out))

    def unpacked(self) -> IntegerWeight:
        d_out, d_in = self.shape
        codes = unpack(self.words, 4, d_out * d_in)
        values = self.table[codes].view(d_out, d_in)
        return IntegerWeight(values, self.scales, self.group, self.limit)
