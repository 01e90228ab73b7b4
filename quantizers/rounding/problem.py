"""A matrix that is to be rounded with its scales given."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from quantizers.packed import PackedTensor


@dataclass(frozen=True)
class Problem:
    """A matrix to round: its constants are given, its words are to be written."""

    weight: Tensor  # fp16, bf16 or fp32 [d_out, d_in], the c columns that stay in 16 bit last
    q: PackedTensor  # [d_out, d_in - c]
