"""The packed kernels in plain torch: the definition of their result, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from quantizers.codebooks import round_to_codebook
from quantizers.granularity import Blocks
from quantizers.integers import Codes, IntegerWeight
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


def fused_weights(q: PackedTensor) -> Tensor:
    """What a row of the identity gives in a fused product of few rows, [d_out, d_in] in q's type:
    `dequantize`, or where 64 weights share a constant, its levels in 16 bit times absmax and
    unit."""
    if q.blocks.size < 64:
        return dequantize(q).view(q.shape)
    levels, unit = q.levels[1][:-1], q.levels[1][-1]
    owner = block_of(torch.arange(q.n, device=q.device), q.blocks)
    scaled = levels[unpack(q.words, q.bits, q.n)] * q.absmax.float()[owner]
    return (scaled * unit).to(q.dtype).view(q.shape)


def token_logprobs(logits: Tensor, targets: Tensor, greedy: bool) -> tuple[Tensor, Tensor | None]:
    """Not log_softmax: on a CPU it adds up a whole row's exponentials in fp32, lane by lane."""
    largest = logits.amax(dim=-1, keepdim=True)
    total = (logits.float() - largest).exp_().sum(dim=-1)
    shifted = logits.gather(1, targets[:, None]).double() - largest.double()
    logprobs = shifted[:, 0] - total.double().log()
    return logprobs.float(), logits.max(dim=-1).indices == targets if greedy else None


def round_rows(x: Tensor, limit: int, fixed: Tensor | None) -> Codes:
    """Divisions are by tensors: by a number, a GPU would multiply by its reciprocal."""
    x = x.float()
    largest = x.abs().amax(1, keepdim=True)
    scale = largest / torch.full_like(largest, limit) if fixed is None else fixed.expand(len(x), 1)
    scale = torch.where(scale == 0, 1.0, scale)
    scale = torch.where(torch.isfinite(largest) & torch.isfinite(scale), scale, torch.nan)
    values = torch.round(x / scale).clamp_(-limit, limit).nan_to_num_(0.0)
    return Codes(values.to(torch.int8), scale, limit)


def integer_product(x: Codes, w: IntegerWeight, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Sums of whole numbers in fp64, which are exact, rounded to fp32 once."""
    result = torch.zeros(len(x.values), len(w.values), device=x.values.device)
    for g, begin in enumerate(range(0, w.values.shape[1], w.group)):
        columns = slice(begin, begin + w.group)
        sums = (x.values[:, columns].double() @ w.values[:, columns].double().T).float()
        result.addcmul_(sums, w.scales[:, g].expand_as(sums))
    result.mul_(x.scale)
    return (result if bias is None else result + bias).to(dtype)


def padded_table(q: PackedTensor) -> Tensor:
    """The codebook as exactly 2^bits fp32 values, NaN at the indices it leaves unused."""
    table = torch.full((2**q.bits,), torch.nan)
    table[: q.codebook.numel()] = q.codebook
    return table
