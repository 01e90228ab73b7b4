"""The value that the kernels work on: a tensor of n weights at k bits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from quantizers.codebooks import levels_of
from quantizers.granularity import Blocks, Granularity
from quantizers.packing import n_words

MOST_BITS = 15
_SIXTEEN_BIT = {
    torch.float16: torch.float16,
    torch.bfloat16: torch.bfloat16,
    torch.float32: torch.float16,
}


def sixteen_bit(dtype: torch.dtype) -> torch.dtype:
    """The 16-bit type of constants and outliers beside weights of `dtype` (fp32: fp16).

    Raises ValueError for a type that is not fp16, bf16 or fp32.
    """
    if dtype not in _SIXTEEN_BIT:
        raise ValueError(f"cannot quantize {dtype}: weights must be float16, bfloat16 or float32")
    return _SIXTEEN_BIT[dtype]


@dataclass(frozen=True)
class PackedTensor:
    """Weights as indices into a codebook, times a constant a block, plus its mean if centered.

    Its parts are contiguous and on one device, but for the codebook, which may be anywhere.
    Making one raises ValueError, in one line that says which, for parts that do not fit each other;
    after that nothing looks at them again.
    """

    words: Tensor  # int32 [ceil(n bits / 32)], see packing.py
    absmax: Tensor  # fp16 or bf16, one a block
    mean: Tensor | None  # likewise, if centered
    codebook: Tensor  # fp32 [at most 2^bits], ascending
    bits: int  # 2..15
    granularity: Granularity
    shape: torch.Size
    dtype: torch.dtype  # fp16, bf16 or fp32, of the weights that were packed and come back

    def __post_init__(self) -> None:
        _check_dtype(self.dtype)
        _check_codebook(self.codebook, self.bits)
        _check_words(self.words, self.bits, self.n)
        _check_constants("absmax", self.absmax, self)
        if self.mean is not None:
            _check_constants("mean", self.mean, self)
            if self.mean.dtype != self.absmax.dtype:
                raise ValueError(f"mean: is {self.mean.dtype}, the absmax {self.absmax.dtype}")

    @property
    def n(self) -> int:
        """Weights."""
        return self.shape.numel()

    @property
    def device(self) -> torch.device:
        return self.words.device

    @cached_property
    def blocks(self) -> Blocks:
        return self.granularity.blocks(self.shape)

    @cached_property
    def levels(self) -> tuple[Tensor, Tensor]:
        """fp32 [codes + 1] each on the words' device, kept: the codebook, and `levels_of` it in the
        type of absmax, in multiples of what comes last."""
        rounded, unit = levels_of(self.codebook.cpu(), self.absmax.dtype)
        ends = torch.tensor([1.0, unit])
        both = torch.stack([self.codebook.cpu(), rounded.float()])
        exact, rounded = torch.cat([both, ends[:, None]], dim=1).to(self.device)
        return exact, rounded

    @property
    def bytes_stored(self) -> int:
        """Bytes of the stream and the block constants. The codebook, often shared, is extra."""
        parts = [self.words, self.absmax] + ([] if self.mean is None else [self.mean])
        return sum(part.nbytes for part in parts)


def empty(
    weights: Tensor, codebook: Tensor, bits: int, granularity: Granularity, centered: bool = False
) -> PackedTensor:
    """A packed tensor of the shape, type and device of `weights`, its words and constants not yet
    written. Raises ValueError as `PackedTensor` and `sixteen_bit` do."""
    count = granularity.blocks(weights.shape).count
    target, device = sixteen_bit(weights.dtype), weights.device
    return PackedTensor(
        words=torch.empty(n_words(weights.numel(), bits), dtype=torch.int32, device=device),
        absmax=torch.empty(count, dtype=target, device=device),
        mean=torch.empty(count, dtype=target, device=device) if centered else None,
        codebook=codebook,
        bits=bits,
        granularity=granularity,
        shape=weights.shape,
        dtype=weights.dtype,
    )


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype not in _SIXTEEN_BIT:
        raise ValueError(f"dtype: must be float16, bfloat16 or float32, not {dtype}")


def _check_codebook(codebook: Tensor, bits: int) -> None:
    if not 2 <= bits <= MOST_BITS:
        raise ValueError(f"bits: {bits} is not in 2..{MOST_BITS}")
    if codebook.dtype != torch.float32 or codebook.dim() != 1:
        raise ValueError(
            f"codebook: must be float32 in one dimension, not {codebook.dtype} "
            f"of shape {tuple(codebook.shape)}"
        )
    if not 1 <= codebook.numel() <= 2**bits:
        raise ValueError(f"codebook: {codebook.numel()} values do not fit {bits} bits")
    if not torch.isfinite(codebook).all():
        raise ValueError("codebook: holds NaN or inf")
    if (codebook[1:] < codebook[:-1]).any():
        raise ValueError("codebook: its values are not sorted in ascending order")
    _check_contiguous("codebook", codebook)


def _check_words(words: Tensor, bits: int, n: int) -> None:
    if words.dtype != torch.int32:
        raise ValueError(f"packed stream: must be int32, not {words.dtype}")
    if words.shape != (n_words(n, bits),):
        raise ValueError(
            f"packed stream: {n} weights of {bits} bits take {n_words(n, bits)} words, "
            f"not shape {tuple(words.shape)}"
        )
    _check_contiguous("packed stream", words)


def _check_constants(name: str, constants: Tensor, q: PackedTensor) -> None:
    if constants.dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(f"{name}: must be float16 or bfloat16, not {constants.dtype}")
    if constants.shape != (q.blocks.count,):
        raise ValueError(
            f"{name}: {q.n} weights, {q.granularity}, have {q.blocks.count} constants, "
            f"not shape {tuple(constants.shape)}"
        )
    if constants.device != q.device:
        raise ValueError(f"{name}: is on {constants.device}, the weights are on {q.device}")
    _check_contiguous(name, constants)


def _check_contiguous(name: str, part: Tensor) -> None:
    if not part.is_contiguous():
        raise ValueError(f"{name}: must be contiguous")
