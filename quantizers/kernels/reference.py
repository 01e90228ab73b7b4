"""The packed kernels in plain torch: the definition of their result, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from quantizers.codebooks import round_to_codebook
from quantizers.granularity import Blocks
from quantizers.packed import PackedTensor
from quantizers.packing import n_words, pack, unpack

# Elements at a time, which bounds the int64 temporaries; a multiple of 32 starts on a whole word.
_CHUNK = 2**22


def block_of(index: Tensor, blocks: Blocks) -> Tensor:
    """The block of each weight, int64 like its `index` in the flattened tensor."""
    return index // blocks.row * blocks.a_row + index % blocks.row // blocks.size


def quantize(values: Tensor, q: PackedTensor) -> None:
    for start in range(0, q.n, _CHUNK):
        stop = min(start + _CHUNK, q.n)
        owner = block_of(torch.arange(start, stop, device=q.device), q.blocks)
        x = values[start:stop].float()
        if q.mean is not None:
            x = x - q.mean.float()[owner]
        scale = q.absmax.float()[owner]
        x = torch.where(scale > 0, x / scale, 0.0)
        packed = pack(round_to_codebook(x, q.codebook), q.bits)
        q.words[start * q.bits // 32 :][: packed.numel()] = packed


def dequantize(q: PackedTensor) -> Tensor:
    table = padded_table(q).to(q.device)
    out = torch.empty(q.n, dtype=q.dtype, device=q.device)
    for start in range(0, q.n, _CHUNK):
        stop = min(start + _CHUNK, q.n)
        owner = block_of(torch.arange(start, stop, device=q.device), q.blocks)
        stream = q.words[start * q.bits // 32 : n_words(stop, q.bits)]
        value = table[unpack(stream, q.bits, stop - start)] * q.absmax.float()[owner]
        if q.mean is not None:
            value = value + q.mean.float()[owner]
        out[start:stop] = value
    return out


def token_logprobs(logits: Tensor, targets: Tensor, greedy: bool) -> tuple[Tensor, Tensor | None]:
    """Not log_softmax: on a CPU it adds up a whole row's exponentials in fp32, lane by lane."""
    largest = logits.amax(dim=-1, keepdim=True)
    total = (logits.float() - largest).exp_().sum(dim=-1)
    shifted = logits.gather(1, targets[:, None]).double() - largest.double()
    logprobs = shifted[:, 0] - total.double().log()
    return logprobs.float(), logits.max(dim=-1).indices == targets if greedy else None


def padded_table(q: PackedTensor) -> Tensor:
    """The codebook as exactly 2^bits fp32 values, NaN at the indices it leaves unused."""
    table = torch.full((2**q.bits,), torch.nan)
    table[: q.codebook.numel()] = q.codebook
    return table
