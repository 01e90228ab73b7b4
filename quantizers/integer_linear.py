"""A linear layer of integer weights that rounds what it reads: W8A8, W4A8, LLM.int8()."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from quantizers.activations.codes import tensor_codes, token_codes
from quantizers.activations.policy import SiteFormat, site_formats
from quantizers.activations.products import integer_weight, packed_integers
from quantizers.calibration import Statistics
from quantizers.integers import Codes, IntegerWeight, PackedIntegers
from quantizers.kernels import integer_product
from quantizers.plan import packed_sites
from quantizers.proxies import Proxies
from quantizers.setting import Setting
from quantizers.wiring import wiring_of


class IntegerLinear(nn.Module):
    """y = x W^T + b with x rounded as its site's format says and W held as integers.

    Sums are exact (`kernels.integer_product`). Where the format is "decomposed", large elements of
    x multiply the 16-bit W instead, which then is held too, or dequantized if outlier weights are
    the quantized ones.
    """

    bias: Tensor | None
    original: Tensor | None

    def __init__(
        self,
        weight: IntegerWeight | PackedIntegers,
        site_format: SiteFormat,
        bias: Tensor | None = None,
        original: Tensor | None = None,
    ) -> None:
        """bias: floating [d_out]; original: W [d_out, d_in] in 16 bit."""
        super().__init__()
        self.site_format, self.weight = site_format, weight
        self.out_features, self.in_features = weight.shape
        for name in _TENSORS[type(weight)]:
            self.register_buffer(name, getattr(weight, name))
        self.register_buffer("bias", None if bias is None else bias.float())
        self.register_buffer("original", original)

    def forward(self, x: Tensor) -> Tensor:
        """[..., d_in] in any floating type to [..., d_out] in the same type."""
        rows = x.flatten(0, -2)
        if self.site_format.format.name == "decomposed":
            y = self._decomposed(rows)
        else:
            y = integer_product(self._codes(rows), self.weight, self.bias, x.dtype)
        return y.view(*x.shape[:-1], self.out_features)

    def _decomposed(self, rows: Tensor) -> Tensor:
        """As `activations.layer` has it; whether there are large elements is asked of a GPU."""
        large = rows.abs() >= self.site_format.format.threshold
        codes = self._codes(rows.masked_fill(large, 0))
        small = integer_product(codes, self.weight, self.bias)
        if large.any():
            weight = self._outlier_weight().to(rows.dtype)
            small = small + nn.functional.linear(rows.masked_fill(~large, 0), weight).float()
        return small.to(rows.dtype)

    def _outlier_weight(self) -> Tensor:
        if self.original is not None:
            return self.original
        weight = self.weight
        whole = weight.unpacked() if isinstance(weight, PackedIntegers) else weight
        scales = whole.scales.repeat_interleave(whole.group, dim=1)[:, : self.in_features]
        return whole.values * scales

    def _codes(self, rows: Tensor) -> Codes:
        maximum, bits = self.site_format.maximum, self.site_format.format.bits
        return token_codes(rows, bits) if maximum is None else tensor_codes(rows, bits, maximum)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> IntegerLinear:
        """Moves between devices reach the tensors; changes of type (`model.half()`) do not."""

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(move, recurse)
        moved = {name: getattr(self, name) for name in _TENSORS[type(self.weight)]}
        self.weight = type(self.weight)(**moved, group=self.weight.group, limit=self.weight.limit)
        return self


_TENSORS: dict[type, tuple[str, ...]] = {
    IntegerWeight: ("values", "scales"),
    PackedIntegers: ("words", "table", "scales"),
}


@torch.no_grad()
def pack_integers(
    model: Any,
    setting: Setting,
    load_dtype: torch.dtype = torch.float16,
    statistics: Mapping[str, Statistics] | None = None,
) -> list[IntegerLinear]:
    """Put an IntegerLinear in the place of every attention and FFN projection of a causal LM.

    As `linear.pack_linears`, for settings that round activations. Weights of 4 bit stay packed on a
    GPU; others, and all on a CPU, which would unpack them for every token, are held as int8.
    Returns the new layers, in forward order.

    Raises ValueError for folding, a rounded key-value cache, weights that are no integers, and as
    `packed_sites` and `site_formats` do.
    """
    activations = setting.activation_format
    beside = setting.folding_method is not None or setting.cache is not None
    if activations is None or beside or setting.scope != "linear":
        raise ValueError(
            f"{setting.label}: layers of integers take rounded activations, scope linear, no "
            "folding and no rounded key-value cache"
        )
    wiring = wiring_of(model)
    formats = site_formats(activations, wiring, statistics)
    proxies = Proxies(wiring, lambda site: site.weight.to(load_dtype))
    layers = []
    for site, matrix in packed_sites(
        wiring,
        setting,
        proxies,
        lambda site: site.weight.to(load_dtype).contiguous(),
        statistics,
    ):
        weight: IntegerWeight | PackedIntegers | None = None
        if site.weight.device.type == "cuda":
            weight = packed_integers(matrix, setting.data_type)
        weight = integer_weight(matrix, setting.data_type) if weight is None else weight
        if weight is None:
            raise ValueError(f"{setting.label}: its weights do not multiply as integers")
        site_format, bias = formats[site.name], site.module.bias
        original = site.weight.to(load_dtype) if site_format.keeps_originals else None
        layer = IntegerLinear(
            weight, site_format, bias.data if isinstance(bias, Tensor) else None, original
        )
        layers.append(layer)
        model.set_submodule(site.name, layer)
    return layers
