"""A linear layer that holds its weights packed, so that memory is what the bits count says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from quantizers.architectures import Matrix, knows_producers, linear_matrices
from quantizers.blockwise import QuantizedTensor, sixteen_bit
from quantizers.kernels import multiply_packed
from quantizers.kernels.checks import check_codebook
from quantizers.outliers import (
    QuantizedMatrix,
    dequantize_matrix,
    outlier_columns,
    quantize_matrix,
    unit_stds,
)
from quantizers.setting import Setting


class KBitLinear(nn.Module):
    """y = x W^T + b with W [d_out, d_in] packed; no copy of W in another form is kept.

    Few rows of x on a GPU multiply straight from the packed form; other calls dequantize W and let
    it go again. The weights are those of `dequantize_matrix` (see `kernels.multiply_packed`).
    """

    packed: Tensor
    absmax: Tensor
    mean: Tensor | None
    codebook: Tensor
    columns: Tensor
    kept: Tensor
    bias: Tensor | None

    def __init__(self, matrix: QuantizedMatrix, bias: Tensor | None = None) -> None:
        """Takes the tensors of `matrix` as they are; bias: floating [d_out], kept in 16 bit.

        Raises ValueError for a codebook that is not sorted, finite and of at most 2^k values.
        """
        super().__init__()
        body = matrix.body
        check_codebook(body.codebook, body.bits)
        self.bits, self.block_size, self.dtype = body.bits, body.block_size, body.dtype
        self.out_features = body.shape[0]
        self.in_features = body.shape[1] + matrix.columns.numel()
        self.register_buffer("packed", body.packed)
        self.register_buffer("absmax", body.absmax)
        self.register_buffer("mean", body.mean)
        self.register_buffer("codebook", body.codebook.to(body.packed.device))
        self.register_buffer("columns", matrix.columns)
        self.register_buffer("kept", matrix.kept)
        self.register_buffer("bias", None if bias is None else bias.to(sixteen_bit(body.dtype)))

    def matrix(self) -> QuantizedMatrix:
        """The packed weights, sharing this layer's tensors."""
        shape = torch.Size((self.out_features, self.in_features - self.columns.numel()))
        body = QuantizedTensor(
            packed=self.packed,
            absmax=self.absmax,
            mean=self.mean,
            codebook=self.codebook,
            shape=shape,
            dtype=self.dtype,
            bits=self.bits,
            block_size=self.block_size,
        )
        return QuantizedMatrix(body, self.columns, self.kept)

    def forward(self, x: Tensor) -> Tensor:
        """[..., d_in] in any floating type to [..., d_out] in the same type."""
        if x.shape[-1] != self.in_features:
            raise ValueError(f"x: has {x.shape[-1]} columns, the layer takes {self.in_features}")
        if self.columns.numel():
            weight = dequantize_matrix(self.matrix()).to(x.dtype)
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return nn.functional.linear(x, weight, bias)
        return multiply_packed(
            x,
            self.packed,
            self.absmax,
            self.mean,
            self.codebook,
            self.bits,
            self.block_size,
            self.out_features,
            self.dtype,
            self.bias,
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> KBitLinear:
        """Moves between devices reach the tensors; changes of type (`model.half()`) do not."""

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(move, recurse)
        return self

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.bits} bit, B={self.block_size}"


@torch.no_grad()
def pack_linears(
    model: Any, setting: Setting, load_dtype: torch.dtype = torch.float16
) -> list[KBitLinear]:
    """Put a KBitLinear in the place of every attention and FFN projection of a causal LM.

    model: a `transformers` causal LM on the device it shall stay on. Weights are rounded to
    `load_dtype` and quantized as in a sweep. One codebook serves all layers (quantile: one each).
    At 16 bit nothing changes. Returns the new layers, in forward order.

    Raises ValueError for scope "all" (embeddings are not linear layers), for outliers in an
    architecture whose wiring is not known, and as `quantize` does.
    """
    if setting.scope != "linear":
        raise ValueError(f"scope: packed layers replace linear ones only, not {setting.scope!r}")
    if setting.bits == 16:
        return []
    if setting.outlier_fraction and not knows_producers(model):
        raise ValueError(
            f"outlier_fraction: proxy quantization does not know the wiring of architecture "
            f"{model.config.model_type!r}; set it to 0"
        )
    matrices = linear_matrices(model)
    columns = _outlier_columns(matrices, setting, load_dtype)  # from the weights as they were
    layers: list[KBitLinear] = []
    tables: dict[torch.device, Tensor] = {}
    for matrix in matrices:
        quantized = quantize_matrix(
            _weight(matrix, load_dtype), setting, columns.get(matrix.name), f"{matrix.name}.weight"
        )
        bias = matrix.module.bias
        layer = KBitLinear(quantized, bias.data if isinstance(bias, Tensor) else None)
        if setting.data_type != "quantile":
            layer.codebook = tables.setdefault(layer.packed.device, layer.codebook)
        layers.append(layer)
        model.set_submodule(matrix.name, layer)
    return layers


def _weight(matrix: Matrix, load_dtype: torch.dtype) -> Tensor:
    """[d_out, d_in], row-major, rounded to the load dtype."""
    weight = matrix.parameter.data.to(load_dtype)
    return weight.T.contiguous() if matrix.transposed else weight


def _outlier_columns(
    matrices: list[Matrix], setting: Setting, load_dtype: torch.dtype
) -> dict[str, Tensor]:
    if not setting.outlier_fraction:
        return {}
    # On the CPU, so that every device keeps the same columns.
    stds = {m.name: unit_stds(_weight(m, sixteen_bit(load_dtype)).cpu()) for m in matrices}
    return {
        m.name: outlier_columns(stds[m.producer.matrix][m.producer.rows], setting.outlier_fraction)
        for m in matrices
        if m.producer is not None
    }
