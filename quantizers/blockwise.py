"""Blockwise quantization of one tensor: packed indices and 16-bit constants per block.

The tensor is taken row-major and cut into blocks of neighbours (paper, section 2.3 and equation 1),
along its whole length or each row apart (see granularity.py).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from quantizers import kernels
from quantizers.granularity import TENSOR, Blocks, Granularity
from quantizers.packed import PackedTensor, empty, sixteen_bit


def quantize(
    tensor: Tensor,
    codebook: Tensor,
    bits: int,
    granularity: Granularity = TENSOR,
    centered: bool = False,
    name: str = "tensor",
) -> PackedTensor:
    """Round each weight / absmax of its block to the codebook and pack the indices.

    tensor: fp16, bf16 or fp32, any shape and device. The absmax is rounded to 16 bit before it
    divides; a block whose absmax rounds to 0 dequantizes to zeros. Centered (appendix B, per
    block): the mean, in fp64 and then rounded to 16 bit, is subtracted in fp32, and the absmax is
    that of the residual.

    Raises ValueError, naming the tensor, for NaN or inf in it, for a mean or absmax beyond the
    16-bit type, and for bits or a codebook out of range.
    """
    q = _empty(tensor, codebook, bits, granularity, centered, name)
    if not kernels.quantize_blocks(_flat(tensor), q):
        _write_constants(tensor, q, name)
        round_to_nearest(tensor, q)
    return q


def scaled(
    tensor: Tensor,
    codebook: Tensor,
    bits: int,
    granularity: Granularity = TENSOR,
    centered: bool = False,
    name: str = "tensor",
) -> PackedTensor:
    """As `quantize`, but the words are not written: others choose them, or other scales."""
    q = _empty(tensor, codebook, bits, granularity, centered, name)
    _write_constants(tensor, q, name)
    return q


def round_to_nearest(tensor: Tensor, q: PackedTensor) -> None:
    """Write the words of q, whose constants are given, from the tensor that it is made for."""
    kernels.quantize(_flat(tensor), q)


def dequantize(q: PackedTensor) -> Tensor:
    """The tensor back: codebook value times absmax (plus mean) in fp32, rounded once to q.dtype."""
    return kernels.dequantize(q).view(q.shape)


def residual(
    tensor: Tensor, granularity: Granularity = TENSOR, centered: bool = False, name: str = "tensor"
) -> Tensor:
    """The elements that meet the codebook, before scaling: fp32 [n], the tensor less its means.

    Raises ValueError as `quantize` does.
    """
    flat, blocks = _flat(tensor), granularity.blocks(tensor.shape)
    _, mean = constants(flat, blocks, centered, name)
    if mean is None:
        return flat.float()
    return flat.float() - spread(mean.float(), blocks)


def constants(
    flat: Tensor, blocks: Blocks, centered: bool, name: str
) -> tuple[Tensor, Tensor | None]:
    """absmax and (if centered) mean of each block of flat [n], rounded to 16 bit: [blocks.count].

    Raises ValueError, naming the tensor, for NaN or inf and for constants beyond the 16-bit type.
    """
    target = sixteen_bit(flat.dtype)
    if not blocks.n:
        return flat.new_empty(0, dtype=target), None
    low = _of_blocks(flat, blocks, lambda block: block.amin(-1)).float()
    high = _of_blocks(flat, blocks, lambda block: block.amax(-1)).float()
    # A block's minimum and maximum carry any NaN or inf in it.
    if not (torch.isfinite(low) & torch.isfinite(high)).all():
        raise ValueError(f"{name}: the weights have NaN or inf; check the checkpoint")
    mean = None
    if centered:
        # fp64 sums of 16-bit weights are exact, so the order of summation does not matter.
        exact = _of_blocks(flat, blocks, lambda block: block.double().mean(-1))
        mean = _rounded(exact, target, "mean", name)
        low, high = low - mean.float(), high - mean.float()
    # Adding 0.0 turns the -0.0 of a block of zeros into 0.0 on every device.
    return _rounded(torch.maximum(-low, high) + 0.0, target, "absmax", name), mean


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().flatten()


def _empty(
    tensor: Tensor,
    codebook: Tensor,
    bits: int,
    granularity: Granularity,
    centered: bool,
    name: str,
) -> PackedTensor:
    try:
        return empty(tensor, codebook, bits, granularity, centered)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _write_constants(tensor: Tensor, q: PackedTensor, name: str) -> None:
    absmax, mean = constants(_flat(tensor), q.blocks, q.mean is not None, name)
    q.absmax.copy_(absmax)
    if q.mean is not None and mean is not None:
        q.mean.copy_(mean)


def spread(constants: Tensor, blocks: Blocks) -> Tensor:
    """The constant of each weight, [n], from those of the blocks."""
    rows = constants.view(-1, blocks.a_row).repeat_interleave(blocks.size, 1)
    return rows[:, : blocks.row].flatten()


def _of_blocks(flat: Tensor, blocks: Blocks, statistic: Callable[[Tensor], Tensor]) -> Tensor:
    """A statistic over the last dimension, of each block: [blocks.count]."""
    rows = flat.view(-1, blocks.row)
    whole = blocks.row // blocks.size * blocks.size
    found = []
    if whole:
        found.append(statistic(rows[:, :whole].unflatten(1, (-1, blocks.size))))
    if whole < blocks.row:  # the short last block of each row
        found.append(statistic(rows[:, whole:])[:, None])
    return torch.cat(found, 1).flatten()


def _rounded(constants: Tensor, target: torch.dtype, what: str, name: str) -> Tensor:
    rounded = constants.to(target)
    if not torch.isfinite(rounded).all():
        raise ValueError(
            f"{name}: the {what} of a block overflows {str(target).removeprefix('torch.')}; "
            "load the model in bfloat16"
        )
    return rounded
