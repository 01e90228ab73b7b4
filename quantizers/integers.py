"""The values that integer products work on: rounded rows and rounded weights. See kernels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


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
