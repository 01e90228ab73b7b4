"""The values that integer products work on: rounded rows and rounded weights. See kernels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from quantizers.packing import unpack

PANEL = 64  # rows of W that lie together in a CPU's kernel


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
    def tiles(self) -> Tensor:
        """The values + 128, kept as a CPU's kernel reads them: uint8, flat, [panels, d_in / 4,
        PANEL rows, 4 columns]. Rows and columns beyond the last are zeros, that is 128."""
        rows, columns = self.shape
        beyond = (0, -columns % 4, 0, -rows % PANEL)
        padded = nn.functional.pad(self.values.view(torch.uint8) ^ 128, beyond, value=128)
        words = padded.contiguous().view(torch.int32).view(-1, PANEL, -(-columns // 4))
        return words.transpose(1, 2).contiguous().view(torch.uint8).flatten()

    @cached_property
    def scales_of_panels(self) -> Tensor:
        """fp32 [groups, rows of all panels]."""
        return nn.functional.pad(self.scales.T, (0, -len(self.scales) % PANEL)).contiguous()


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
