"""A linear map whose input is quantized, put in the place of a module's forward."""

from __future__ import annotations

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from quantizers.activations.codes import beyond, clamped_share, tensor_codes, token_codes
from quantizers.activations.policy import SiteFormat
from quantizers.integers import Codes, IntegerWeight
from quantizers.kernels import integer_product


class QuantizedInput:
    """Takes what a linear layer takes, [..., d_in], and gives what it gives.

    Integer weights: s_x s_w (X_q W_q) with exact sums, plus the bias, in fp32, rounded to the type
    of x once. Otherwise the rounded input is multiplied by `weight` in floating point.
    """

    def __init__(
        self,
        module: nn.Module,
        site_format: SiteFormat,
        integers: IntegerWeight | None,
        weight: Tensor | None = None,
    ) -> None:
        """module: a linear layer (nn.Linear, Conv1D); its own weights multiply what is not rounded.

        weight: [d_out, d_in], multiplies the rounded input where there are no integers; None: the
        module's own.
        """
        self.module, self.site_format, self.integers = module, site_format, integers
        self._apart = weight
        columns = site_format.columns
        self._columns = None if columns is None else columns.to(module.weight.device)  # type: ignore[arg-type]
        self._beyond: list[tuple[Tensor, int]] = []  # of each call; threads append side by side

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        if self.site_format.format.name == "decomposed":
            result = self._decomposed(rows)
        elif self.integers is None:
            result = self._own(self._codes(rows).dequantized.to(x.dtype))
        else:
            result = integer_product(self._codes(rows), self.integers, self._bias, x.dtype)
        return result.to(x.dtype).view(*x.shape[:-1], -1)

    @property
    def clamped_share(self) -> float | None:
        """Of all elements that a static scale has rounded; None: there were none."""
        return clamped_share(self._beyond)

    def _decomposed(self, rows: Tensor) -> Tensor:
        """LLM.int8() (Dettmers et al. 2022, section 3.2), but decided by element, or beforehand: no
        token sees what others hold. Zeros add nothing to either product, bit for bit."""
        columns = self._columns
        if columns is None:
            large = rows.abs() >= self.site_format.format.threshold
        else:
            large = columns.expand_as(rows)
        codes = self._codes(rows.masked_fill(large, 0))
        if self.integers is not None:
            small = integer_product(codes, self.integers)
        else:
            weight = self._own_weight if self._apart is None else self._apart
            small = nn.functional.linear(codes.dequantized.to(rows.dtype), weight).float()
        if not large.any():
            return small if self._bias is None else small + self._bias
        return small + self._own(rows.masked_fill(~large, 0)).float()

    def _codes(self, rows: Tensor) -> Codes:
        maximum, bits = self.site_format.maximum, self.site_format.format.bits
        if not self.site_format.format.is_causal:
            return tensor_codes(rows, bits, float(rows.abs().max()))
        if maximum is None:
            return token_codes(rows, bits)
        self._beyond.append((beyond(rows, bits, maximum), rows.numel()))
        return tensor_codes(rows, bits, maximum)

    def _own(self, rows: Tensor) -> Tensor:
        """The module's product, in floating point."""
        return type(self.module).forward(self.module, rows)  # type: ignore[no-any-return]

    @property
    def _own_weight(self) -> Tensor:
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight.T if isinstance(self.module, Conv1D) else weight

    @property
    def _bias(self) -> Tensor | None:
        bias = self.module.bias
        return bias.float() if isinstance(bias, Tensor) else None
