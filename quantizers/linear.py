"""A linear layer that holds its weights packed, so that memory is what the bits count says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from quantizers.calibration import Statistics
from quantizers.data_types import base_type
from quantizers.kernels import multiply
from quantizers.outliers import PackedMatrix, dequantize_matrix
from quantizers.packed import sixteen_bit
from quantizers.plan import packed_sites
from quantizers.proxies import Proxies
from quantizers.setting import Setting
from quantizers.wiring import wiring_of


class HoldsPacked:
    """Mixed into a module: a packed matrix, its tensors the module's buffers, and none that follow
    the model's type but `like`."""

    matrix: PackedMatrix

    def _hold(self: Any, matrix: PackedMatrix) -> None:
        self.matrix = matrix
        for name, tensor in layer_tensors(matrix).items():
            self.register_buffer(name, tensor)

    def _apply(self: Any, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Moves between devices reach the tensors; changes of type (`model.half()`) do not."""
        tensors = {name: getattr(self, name) for name in layer_tensors(self.matrix)}
        follows = getattr(self, "like", None)

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            same = moved.dtype == tensor.dtype or tensor is follows
            return moved if same else tensor.to(moved.device)

        super()._apply(move, recurse)  # type: ignore[misc]
        moved = {name: getattr(self, name) for name in tensors}
        outside = {name: moved.pop(name) for name in ("columns", "kept")}
        self.matrix = PackedMatrix(replace(self.matrix.body, **moved), **outside)
        return self


class KBitLinear(HoldsPacked, nn.Module):
    """y = x W^T + b with W [d_out, d_in] packed; no copy of W in another form is kept.

    Few rows of x on a GPU multiply straight from the packed form; other calls dequantize W and let
    it go again. The weights are those of `dequantize_matrix`, but for roundings (see
    `kernels.multiply`).
    """

    bias: Tensor | None

    def __init__(self, matrix: PackedMatrix, bias: Tensor | None = None) -> None:
        """Takes the tensors of `matrix` as they are; bias: floating [d_out], kept in 16 bit."""
        super().__init__()
        body = matrix.body
        self._hold(replace(matrix, body=replace(body, codebook=body.codebook.to(body.device))))
        self.out_features = body.shape[0]
        self.in_features = body.shape[1] + matrix.columns.numel()
        self.register_buffer("bias", None if bias is None else bias.to(sixteen_bit(body.dtype)))

    def forward(self, x: Tensor) -> Tensor:
        """[..., d_in] in any floating type to [..., d_out] in the same type."""
        if x.shape[-1] != self.in_features:
            raise ValueError(f"x: has {x.shape[-1]} columns, the layer takes {self.in_features}")
        if not self.matrix.columns.numel():
            return multiply(x, self.matrix.body, self.bias)
        weight = dequantize_matrix(self.matrix).to(x.dtype)
        return nn.functional.linear(x, weight, None if self.bias is None else self.bias.to(x.dtype))

    def extra_repr(self) -> str:
        body = self.matrix.body
        return f"{self.in_features}, {self.out_features}, {body.bits} bit, {body.granularity}"


def layer_tensors(matrix: PackedMatrix) -> dict[str, Tensor | None]:
    """What a layer holds, by the names of its buffers."""
    names = ("words", "absmax", "mean", "codebook")
    parts = {name: getattr(matrix.body, name) for name in names}
    return {**parts, "columns": matrix.columns, "kept": matrix.kept}


@torch.no_grad()
def pack_linears(
    model: Any,
    setting: Setting,
    load_dtype: torch.dtype = torch.float16,
    statistics: Mapping[str, Statistics] | None = None,
) -> list[KBitLinear]:
    """Put a KBitLinear in the place of every attention and FFN projection of a causal LM.

    model: a `transformers` causal LM on the device it shall stay on. Weights are rounded to
    `load_dtype` and quantized as in a sweep, with `statistics` as `ResidentModel.apply` takes them.
    One codebook serves all layers (quantile: one each). At 16 bit nothing changes. Returns the new
    layers, in forward order.

    Raises ValueError for scope "all" (embeddings are not linear layers), for experts (which are no
    layers either), for folding and activations, for outliers in an architecture whose wiring is not
    known, and as `quantize` does.
    """
    if setting.scope != "linear":
        raise ValueError(f"scope: packed layers replace linear ones only, not {setting.scope!r}")
    if not setting.is_weight_only:
        raise ValueError(f"{setting.label}: packed layers neither fold nor round what they read")
    if setting.is_baseline:
        return []
    wiring = wiring_of(model)
    if any(site.expert is not None for site in wiring.linear):
        raise ValueError(f"architecture {wiring.architecture!r}: its experts cannot be packed")
    half = sixteen_bit(load_dtype)
    proxies = Proxies(wiring, lambda site: site.weight.to(half))
    layers: list[KBitLinear] = []
    tables: dict[torch.device, Tensor] = {}
    for site, quantized in packed_sites(
        wiring,
        setting,
        proxies,
        lambda site: site.weight.to(load_dtype).contiguous(),
        statistics,
    ):
        if base_type(setting.data_type) != "quantile":
            body = quantized.body
            shared = tables.setdefault(body.device, body.codebook.to(body.device))
            quantized = replace(quantized, body=replace(body, codebook=shared))
        bias = site.module.bias
        layer = KBitLinear(quantized, bias.data if isinstance(bias, Tensor) else None)
        layers.append(layer)
        model.set_submodule(site.name, layer)
    return layers
