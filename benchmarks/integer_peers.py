"""What others offer for linear layers of integers, each where it is installed and runs here."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

# Marlin W4A8-int8 over cuBLAS fp16 on an H200, 8192 x 8192, as vLLM's authors published it: by rows
# of x.
MARLIN = {1: 2.00, 16: 1.99, 64: 1.29, 256: 0.80, 1024: 0.88, 4096: 0.92}


def onednn(weight: Tensor) -> Callable[[Tensor], Tensor] | None:
    """torch's dynamic int8 linear on oneDNN: uint8 per tensor x int8 per tensor."""
    try:
        torch.backends.quantized.engine = "onednn"
        scale = float(weight.abs().max()) / 127
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rounded = torch.quantize_per_tensor(weight, scale, 0, torch.qint8)
        packed = torch.ops.quantized.linear_prepack(rounded, None)
    except (RuntimeError, AttributeError):
        return None
    return lambda x: torch.ops.quantized.linear_dynamic(x, packed)


def torchao(weight: Tensor) -> Callable[[Tensor], Tensor] | None:
    """Its int8 x int8 linear, a scale a token and row: the same work as W8A8."""
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    except Exception:  # not installed, or not for this torch
        return None
    model = torch.nn.Sequential(torch.nn.Linear(*weight.T.shape, bias=False))
    model[0].weight.data = weight
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return model


def humming(weight: Tensor, bits: int, group: int) -> Callable[[Tensor], Tensor] | None:
    """humming-kernels' layer of int weights and int8 activations, which it rounds too; group 0: a
    scale a row. weight: fp16 [d_out, d_in] on a GPU."""
    try:
        from humming.layer import HummingLayer

        layer = HummingLayer(
            shape_n=weight.shape[0],
            shape_k=weight.shape[1],
            weight_config={"dtype": f"int{bits}", "group_size": group},
            input_config={"dtype": "int8"},
            torch_dtype=weight.dtype,
        ).cuda()
        layer.load_from_unquantized(weight)
        layer.transform()
        layer(weight[:1])
    except Exception as error:  # not installed, not for this device, its compiler is missing
        print(f"humming-kernels is not measured: {type(error).__name__}: {error}")
        return None
    return layer  # type: ignore[no-any-return]
