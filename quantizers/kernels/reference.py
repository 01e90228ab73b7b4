"""The packed kernels in plain torch: the definition of their result, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from quantizers.codebooks import round_to_codebook
from quantizers.packing import n_words, pack, unpack

# Elements at a time, which bounds the int64 temporaries; a multiple of 32 starts on a whole word.
_CHUNK = 2**22


def _block_of(start: int, stop: int, block: int, device: torch.device) -> Tensor:
    return torch.arange(start, stop, device=device) // block


def quantize_packed(
    values: Tensor, absmax: Tensor, mean: Tensor | None, codebook: Tensor, bits: int, block: int
) -> Tensor:
    n = values.numel()
    words = torch.empty(n_words(n, bits), dtype=torch.int32, device=values.device)
    for start in range(0, n, _CHUNK):
        stop = min(start + _CHUNK, n)
        owner = _block_of(start, stop, block, values.device)
        x = values[start:stop].float()
        if mean is not None:
            x = x - mean.float()[owner]
        scale = absmax.float()[owner]
        x = torch.where(scale > 0, x / scale, 0.0)
        packed = pack(round_to_codebook(x, codebook), bits)
        words[start * bits // 32 :][: packed.numel()] = packed
    return words


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
    table = padded_table(codebook, bits).to(words.device)
    out = torch.empty(n, dtype=dtype, device=words.device)
    for start in range(0, n, _CHUNK):
        stop = min(start + _CHUNK, n)
        owner = _block_of(start, stop, block, words.device)
        stream = words[start * bits // 32 : n_words(stop, bits)]
        value = table[unpack(stream, bits, stop - start)] * absmax.float()[owner]
        if mean is not None:
            value = value + mean.float()[owner]
        out[start:stop] = value
    return out


def token_logprobs(logits: Tensor, targets: Tensor, greedy: bool) -> tuple[Tensor, Tensor | None]:
    """Not log_softmax: on a CPU it adds up a whole row's exponentials in fp32, lane by lane."""
    largest = logits.amax(dim=-1, keepdim=True)
    total = (logits.float() - largest).exp_().sum(dim=-1)
    shifted = logits.gather(1, targets[:, None]).double() - largest.double()
    logprobs = shifted[:, 0] - total.double().log()
    return logprobs.float(), logits.max(dim=-1).indices == targets if greedy else None


def padded_table(codebook: Tensor, bits: int) -> Tensor:
    """The codebook as exactly 2^bits fp32 values, NaN at the indices it leaves unused."""
    table = torch.full((2**bits,), torch.nan)
    table[: codebook.numel()] = codebook
    return table
