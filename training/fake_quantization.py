"""Rounding that gradients pass straight through: what quantization-aware training trains against.

The values are those of the settings that score a model later: int weights with one 16-bit absmax a
row, activations and the key-value cache with a scale a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from quantizers.activations.codes import token_codes
from quantizers.blockwise import dequantize, quantize
from quantizers.codebooks import codebook
from quantizers.granularity import ROW
from quantizers.setting import Setting
from quantizers.undo import UndoLog
from quantizers.wiring import Site, wiring_of


@dataclass(frozen=True)
class Widths:
    """Bits of weights, of what they multiply, and of keys and values (None: 16)."""

    weights: int
    activations: int
    kv: int | None = None

    @property
    def setting(self) -> Setting:
        """What scores a model at these widths. Raises ValueError for widths that there are not."""
        return Setting.make(
            self.weights,
            "int",
            block_size="row",
            activations={"token": self.activations},
            kv=16 if self.kv is None else {"token": self.kv},
        )

    def __str__(self) -> str:
        kv = "" if self.kv is None else f"KV{self.kv}"
        return f"W{self.weights}A{self.activations}{kv}"


def straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    """The rounded values, with the gradient of x."""
    return x + (rounded - x).detach()


def rounded_rows(weight: Tensor, bits: int) -> Tensor:
    """fp32 [d_out, d_in], by the rule that settings round by, ties too."""
    table = codebook("int", bits)
    packed = quantize(weight.detach().float().contiguous(), table, bits, ROW)
    return straight_through(weight, dequantize(packed))


def rounded_tokens(x: Tensor, bits: int) -> Tensor:
    """[..., d], a scale a token over the last dimension."""
    codes = token_codes(x.detach().flatten(0, -2), bits)
    return straight_through(x, codes.dequantized.view(x.shape).to(x.dtype))


class FakeQuantized:
    """In place of a linear layer's forward: weights, inputs and what the cache keeps, rounded."""

    def __init__(self, site: Site, widths: Widths) -> None:
        self._module, self._widths = site.module, widths
        self._cached = [rows for rows in (site.keys, site.values) if rows is not None]

    def __call__(self, x: Tensor) -> Tensor:
        module: Any = self._module
        weight = module.weight.T if isinstance(module, Conv1D) else module.weight
        weight = rounded_rows(weight, self._widths.weights)
        y = nn.functional.linear(rounded_tokens(x, self._widths.activations), weight, module.bias)
        if self._widths.kv is None:
            return y
        for rows in self._cached:
            columns = rows.to(y.device)
            y = y.index_copy(-1, columns, rounded_tokens(y[..., columns], self._widths.kv))
        return y


def fake_quantize(model: Any, widths: Widths, log: UndoLog) -> None:
    """Round what every attention and FFN projection reads and holds, until the log is undone.

    Raises ValueError for a model whose matrices are not known, and for experts.
    """
    wiring = wiring_of(model)
    if not wiring.knows_norms or any(site.expert is not None for site in wiring.linear):
        raise ValueError(
            f"architecture {wiring.architecture!r} cannot be trained with rounding: its wiring is "
            "not known, or it has experts"
        )
    for site in wiring.linear:
        log.set_forward(site.module, FakeQuantized(site, widths))
