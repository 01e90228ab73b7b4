"""Blockwise quantization of one tensor: packed indices and 16-bit constants per block.

The tensor is taken row-major and cut into blocks of B neighbours, the last one possibly short
(paper, section 2.3 and equation 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantizers.kernels import dequantize_packed, quantize_blocks, quantize_packed

_SIXTEEN_BIT = {
    torch.float16: torch.float16,
    torch.bfloat16: torch.bfloat16,
    torch.float32: torch.float16,
}


@dataclass(frozen=True)
class QuantizedTensor:
    """A tensor of n weights at k bits; all parts on one device, the codebook anywhere."""

    packed: Tensor  # int32 [ceil(n k / 32)], see packing.py
    absmax: Tensor  # 16-bit floating [ceil(n / B)]
    mean: Tensor | None  # likewise, if centered
    codebook: Tensor  # fp32 [at most 2^k]
    shape: torch.Size
    dtype: torch.dtype  # of the tensor quantized, and so of the one dequantized
    bits: int
    block_size: int

    @property
    def bytes_stored(self) -> int:
        """Bytes of the stream and the block constants. The codebook, often shared, is extra."""
        parts = [self.packed, self.absmax] + ([] if self.mean is None else [self.mean])
        return sum(part.nbytes for part in parts)


def sixteen_bit(dtype: torch.dtype) -> torch.dtype:
    """The 16-bit type of constants and outliers beside weights of `dtype` (fp32: fp16).

    Raises ValueError for a type that is not fp16, bf16 or fp32.
    """
    if dtype not in _SIXTEEN_BIT:
        raise ValueError(f"cannot quantize {dtype}: weights must be float16, bfloat16 or float32")
    return _SIXTEEN_BIT[dtype]


def quantize(
    tensor: Tensor,
    codebook: Tensor,
    bits: int,
    block_size: int | None = None,
    centered: bool = False,
    name: str = "tensor",
) -> QuantizedTensor:
    """Round each weight / absmax of its block to the codebook and pack the indices.

    tensor: fp16, bf16 or fp32, any shape and device. block_size None: one block. The absmax is
    rounded to 16 bit before it divides; a block whose absmax rounds to 0 dequantizes to zeros.
    Centered (appendix B, per block): the mean, in fp64 and then rounded to 16 bit, is subtracted in
    fp32, and the absmax is that of the residual.

    Raises ValueError, naming the tensor, for NaN or inf in it, for a mean or absmax beyond the
    16-bit type, and for bits, block size or codebook out of range.
    """
    if not 2 <= bits <= 15:
        raise ValueError(f"{name}: cannot quantize to {bits} bits, only to 2..15")
    if not 1 <= codebook.numel() <= 2**bits:
        raise ValueError(
            f"{name}: a codebook of {codebook.numel()} values does not fit {bits} bits"
        )
    if block_size is not None and block_size < 1:
        raise ValueError(f"{name}: block_size {block_size} is below 1")
    flat = tensor.detach().contiguous().flatten()
    block = max(1, flat.numel()) if block_size is None else block_size
    mean = None
    one_pass = None if centered else quantize_blocks(flat, codebook, bits, block)
    if one_pass is not None:
        packed, absmax = one_pass
    else:
        absmax, mean = _constants(flat, block, centered, name)
        packed = quantize_packed(flat, absmax, mean, codebook, bits, block)
    return QuantizedTensor(
        packed=packed,
        absmax=absmax,
        mean=mean,
        codebook=codebook,
        shape=tensor.shape,
        dtype=tensor.dtype,
        bits=bits,
        block_size=block,
    )


def dequantize(q: QuantizedTensor) -> Tensor:
    """The tensor back: codebook value times absmax (plus mean) in fp32, rounded once to q.dtype."""
    n = q.shape.numel()
    flat = dequantize_packed(
        q.packed, q.absmax, q.mean, q.codebook, q.bits, q.block_size, n, q.dtype
    )
    return flat.view(q.shape)


def residual(
    tensor: Tensor, block_size: int | None, centered: bool, name: str = "tensor"
) -> Tensor:
    """The elements that meet the codebook, before scaling: fp32 [n], the tensor less its means.

    Raises ValueError as `quantize` does.
    """
    flat = tensor.detach().contiguous().flatten()
    block = max(1, flat.numel()) if block_size is None else block_size
    _, mean = _constants(flat, block, centered, name)
    if mean is None:
        return flat.float()
    return flat.float() - mean.float().repeat_interleave(block)[: flat.numel()]


def _constants(flat: Tensor, block: int, centered: bool, name: str) -> tuple[Tensor, Tensor | None]:
    """absmax and (if centered) mean of each block, rounded to 16 bit: [ceil(n / block)] each."""
    target = sixteen_bit(flat.dtype)
    whole = flat.numel() // block * block
    # The whole blocks as rows, and the short last block as a row of its own.
    parts = [flat[:whole].view(-1, block), flat[whole:].view(-1, max(1, flat.numel() - whole))]
    rows = [part for part in parts if part.numel()]
    if not rows:
        return flat.new_empty(0, dtype=target), None
    low = torch.cat([part.amin(1) for part in rows]).float()
    high = torch.cat([part.amax(1) for part in rows]).float()
    # A block's minimum and maximum carry any NaN or inf in it.
    if not (torch.isfinite(low) & torch.isfinite(high)).all():
        raise ValueError(f"{name}: the weights have NaN or inf; check the checkpoint")
    mean = None
    if centered:
        # fp64 sums of 16-bit weights are exact, so the order of summation does not matter.
        exact = torch.cat([part.double().mean(1) for part in rows])
        mean = _rounded(exact, target, "mean", name)
        low, high = low - mean.float(), high - mean.float()
    # Adding 0.0 turns the -0.0 of a block of zeros into 0.0 on every device.
    return _rounded(torch.maximum(-low, high) + 0.0, target, "absmax", name), mean


def _rounded(constants: Tensor, target: torch.dtype, what: str, name: str) -> Tensor:
    rounded = constants.to(target)
    if not torch.isfinite(rounded).all():
        raise ValueError(
            f"{name}: the {what} of a block overflows {str(target).removeprefix('torch.')}; "
            "load the model in bfloat16"
        )
    return rounded
