"""Quantize + pack and unpack + dequantize, each one function whatever the device.

CPU tensors take compiled loops, tensors on any other device plain torch operations there. Both
give the same bits: fp32 subtraction and IEEE division in, fp32 product and sum out, rounded once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantizers.kernels import cpu, reference


def quantize_packed(
    values: Tensor, absmax: Tensor, mean: Tensor | None, codebook: Tensor, bits: int, block: int
) -> Tensor:
    """Index stream of (values - mean) / absmax rounded to the codebook.

    values: floating [n], contiguous; absmax and mean: 16-bit floating [ceil(n / block)], one a
    block of `block` neighbours; codebook: fp32 [at most 2^bits]. Returns int32 words
    [ceil(n bits / 32)] on the device of `values`. Blocks of absmax 0 get the index of 0.
    """
    path = cpu if values.device.type == "cpu" else reference
    return path.quantize_packed(values, absmax, mean, codebook, bits, block)


def dequantize_packed(
    words: Tensor,
    absmax: Tensor,
    mean: Tensor | None,
    codebook: Tensor,
    bits: int,
    block: int,
    n: int,
    dtype: torch.dtype,
) -> Tensor:
    """codebook[index] * absmax (+ mean) in fp32, rounded once to `dtype`: [n] on words' device.

    Arguments as `quantize_packed` takes and gives them. An index beyond the codebook, which no
    quantizer writes, gives NaN: a damaged stream shows.
    """
    path = cpu if words.device.type == "cpu" else reference
    return path.dequantize_packed(words, absmax, mean, codebook, bits, block, n, dtype)
