"""How the CUDA quantizer finds a code, the number of midpoints below x: a table and a few probes.

x is rounded toward zero to fp16, which squeezes the exponent. The upper bits of that, sign first,
are the number of a bucket: an interval of x whose ends are exact. A table says how many midpoints
lie below all of it; a binary search over those inside does the rest. The tables of the usual data
types have at most one inside any bucket.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import torch
from torch import Tensor

from quantizers.codebooks import midpoints_of

# Lower bits of fp16 that a bucket may ignore: 8192 to 64 buckets, of which infinity has its own.
KEY_SHIFTS = range(3, 11)
# The kernel's fast division is exact for quotients from here on. Smaller ones stay smaller, which
# is enough unless a midpoint lies among them.
LEAST_EXACT = 2.0**-60


@dataclass(frozen=True)
class Search:
    """A codebook made ready for the quantizer."""

    midpoints: Tensor  # fp32 [2^bits], ascending, padded with inf
    first: Tensor  # [2^(16 - key_shift)], uint8 up to 8 bits, then int16: midpoints below a bucket
    key_shift: int
    widest: int  # the first step of the binary search: steps 1, 2, ..., widest are taken
    near_zero: bool  # a midpoint is 0 or nearer to it than LEAST_EXACT


def search_of(codebook: Tensor, bits: int, device: torch.device) -> Search:
    """The search for a codebook (fp32, sorted, at most 2^bits values); the last ones are kept."""
    return _search_of(codebook.cpu().numpy().tobytes(), bits, device)


@lru_cache(maxsize=64)
def _search_of(content: bytes, bits: int, device: torch.device) -> Search:
    found = midpoints_of(torch.frombuffer(bytearray(content), dtype=torch.float32)).numpy()
    midpoints = np.full(2**bits, np.inf, dtype=np.float32)
    midpoints[: found.size] = found + np.float32(0)  # turns -0.0 into 0.0
    low, high = _buckets()
    below = np.searchsorted(midpoints, low)  # midpoints below all of a bucket
    reach = np.searchsorted(midpoints, high)  # those, and the ones inside
    choices = []
    for shift in KEY_SHIFTS:
        width = 2 ** (shift - KEY_SHIFTS[0])
        first = below.reshape(-1, width).min(1)
        inside = int((reach.reshape(-1, width).max(1) - first).max())
        probes = max(1, inside.bit_length())  # 2^probes - 1 midpoints are told apart
        choices.append((probes, -shift, first))
    probes, shift, first = min(choices, key=lambda choice: choice[:2])
    first = np.minimum(first, 2**bits - 2**probes)  # no probe beyond the last midpoint
    return Search(
        midpoints=torch.from_numpy(midpoints).to(device),
        first=torch.from_numpy(first.astype(np.uint8 if bits <= 8 else np.int16)).to(device),
        key_shift=-shift,
        widest=2 ** (probes - 1),
        near_zero=bool((np.abs(midpoints) < LEAST_EXACT).any()),
    )


@cache
def _buckets() -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest fp32 of each bucket of the finest table: [8192] each."""
    step = 2 ** KEY_SHIFTS[0]
    keys = np.arange(0, 0x8000, step, dtype=np.uint16)
    # NaN, beyond infinity, only needs to be somewhere.
    near = np.minimum(keys, 0x7C00).view(np.float16).astype(np.float32)
    far = np.nextafter(np.append(near[1:], np.float32(np.inf)), np.float32(0))
    far[near == np.inf] = np.inf
    return np.concatenate([near, -far]), np.concatenate([far, -near])
