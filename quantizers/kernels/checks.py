"""What a kernel must not be given: found before any launch, one line that says which."""

from __future__ import annotations

import torch
from torch import Tensor

from quantizers.packing import n_words

MOST_BITS = 15
_FLOATING = (torch.float16, torch.bfloat16, torch.float32)


def check_codebook(codebook: Tensor, bits: int) -> None:
    """Raises ValueError for bits outside 2..15 and for a table that is not fp32 [1..2^bits],
    sorted and finite."""
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


def check_constants(
    absmax: Tensor, mean: Tensor | None, block: int, n: int, device: torch.device
) -> None:
    """Raises ValueError for a block size below 1 and for constants that are not one 16-bit value
    a block on `device`."""
    if block < 1:
        raise ValueError(f"block size: {block} is below 1")
    blocks = -(-n // block)
    for name, constants in (("absmax", absmax), ("mean", mean)):
        if constants is None:
            continue
        if constants.dtype not in (torch.float16, torch.bfloat16):
            raise ValueError(f"{name}: must be float16 or bfloat16, not {constants.dtype}")
        if constants.shape != (blocks,):
            raise ValueError(
                f"{name}: {n} weights in blocks of {block} have {blocks} constants, "
                f"not shape {tuple(constants.shape)}"
            )
        if constants.device != device:
            raise ValueError(f"{name}: is on {constants.device}, the weights are on {device}")
    if mean is not None and mean.dtype != absmax.dtype:
        raise ValueError(f"mean: is {mean.dtype}, the absmax {absmax.dtype}")


def check_words(words: Tensor, bits: int, n: int) -> None:
    """Raises ValueError for a stream that is not int32 [ceil(n bits / 32)]."""
    if words.dtype != torch.int32:
        raise ValueError(f"packed stream: must be int32, not {words.dtype}")
    if words.shape != (n_words(n, bits),):
        raise ValueError(
            f"packed stream: {n} weights of {bits} bits take {n_words(n, bits)} words, "
            f"not shape {tuple(words.shape)}"
        )


def check_dtype(name: str, dtype: torch.dtype) -> None:
    """Raises ValueError for another type than fp16, bf16 and fp32."""
    if dtype not in _FLOATING:
        raise ValueError(f"{name}: must be float16, bfloat16 or float32, not {dtype}")


def check_product(x: Tensor, bias: Tensor | None, d_out: int, device: torch.device) -> None:
    """Raises ValueError for an x without columns or away from the weights, and a bias that is not
    [d_out] beside it."""
    if x.dim() < 1:
        raise ValueError("x: needs at least one dimension, the columns of the weight matrix")
    check_dtype("x", x.dtype)
    if x.device != device:
        raise ValueError(f"x: is on {x.device}, the weights are on {device}")
    if bias is None:
        return
    if bias.shape != (d_out,):
        raise ValueError(f"bias: has shape {tuple(bias.shape)}, not ({d_out},)")
    if bias.device != device:
        raise ValueError(f"bias: is on {bias.device}, the weights are on {device}")


def check_targets(logits: Tensor, targets: Tensor) -> None:
    """Raises ValueError unless there is one int64 token a row of floating logits."""
    if logits.dim() != 2 or not logits.is_floating_point():
        raise ValueError(
            f"logits: must be floating [n, vocabulary], not {logits.dtype} "
            f"of shape {tuple(logits.shape)}"
        )
    if targets.shape != logits.shape[:1] or targets.dtype != torch.int64:
        raise ValueError(
            f"targets: must be int64 [{len(logits)}], not {targets.dtype} "
            f"of shape {tuple(targets.shape)}"
        )
    if targets.device != logits.device:
        raise ValueError(f"targets: is on {targets.device}, the logits are on {logits.device}")
