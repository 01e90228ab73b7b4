"""The k-bit index stream, in plain torch.

Dense and little-endian: index i takes bits [i k, (i + 1) k) of the stream, so 32 indices fill
exactly k 32-bit words. Words are stored as int32 because torch computes little on uint32.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LANES = 32  # indices a group; a group is `bits` whole words
_WORD = 0xFFFFFFFF


def n_words(n: int, bits: int) -> int:
    """32-bit words that hold n indices: ceil(n k / 32)."""
    return -(-n * bits // 32)


def pack(indices: Tensor, bits: int) -> Tensor:
    """Indices (any integer type, [n], each in 0..2^bits - 1) to int32 words [ceil(n bits / 32)]."""
    n = indices.numel()
    groups = -(-n // _LANES)
    lanes = torch.zeros(groups * _LANES, dtype=torch.int64, device=indices.device)
    lanes[:n] = indices
    lanes = lanes.view(groups, _LANES)
    words = torch.zeros(groups, bits, dtype=torch.int64, device=indices.device)
    for lane in range(_LANES):
        word, offset = divmod(lane * bits, 32)
        words[:, word] |= (lanes[:, lane] << offset) & _WORD
        if offset + bits > 32:  # the code straddles two words
            words[:, word + 1] |= lanes[:, lane] >> (32 - offset)
    signed = torch.where(words > _WORD // 2, words - (_WORD + 1), words)
    return signed.to(torch.int32).flatten()[: n_words(n, bits)]


def unpack(words: Tensor, bits: int, n: int) -> Tensor:
    """The n indices, int64 [n], of an int32 stream that `pack` wrote."""
    groups = -(-n // _LANES)
    padded = torch.zeros(groups * bits, dtype=torch.int64, device=words.device)
    padded[: words.numel()] = words.to(torch.int64) & _WORD
    padded = padded.view(groups, bits)
    lanes = torch.empty(groups, _LANES, dtype=torch.int64, device=words.device)
    for lane in range(_LANES):
        word, offset = divmod(lane * bits, 32)
        code = padded[:, word] >> offset
        if offset + bits > 32:
            code = code | (padded[:, word + 1] << (32 - offset))
        lanes[:, lane] = code & (2**bits - 1)
    return lanes.flatten()[:n]
