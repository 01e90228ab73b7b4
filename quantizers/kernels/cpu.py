"""The packed kernels on the CPU: Numba loops over chunks that stay in the cache.

The loops know fp32 alone; torch widens and rounds 16-bit types chunk by chunk. They run without
the interpreter lock in as many threads as torch uses. Compiled code is cached on disk. Several
processes may compile at once: each function has one signature, so all write the same file, and
Numba replaces files atomically.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantizers.codebooks import midpoints_of
from quantizers.kernels.reference import padded_table
from quantizers.packing import n_words

# Elements a chunk: a multiple of 32 (whole words), and too few for torch to start threads itself.
_CHUNK = 2**14
_STRIP = 256  # elements the encoder takes through each step at a time
_LINEAR_BITS = 8  # up to here it compares with every midpoint, above it searches


def _encode(values, absmax, mean, midpoints, bits, block, start, words):  # type: ignore[no-untyped-def]
    """Pack the codes of values (fp32), which begin at element `start` of the tensor.

    midpoints: 2^bits - 1 of them, padded with inf; mean: empty if not centered.
    """
    x = np.zeros(_STRIP, np.float32)
    index = np.empty(_STRIP, np.int32)
    shift = np.float32(0)
    stream, filled, word = np.int64(0), 0, 0
    for base in range(0, values.size, _STRIP):
        size = min(_STRIP, values.size - base)

        i = 0
        while i < size:
            owner = (start + base + i) // block
            stop = min(size, (owner + 1) * block - start - base)
            scale = absmax[owner]
            if mean.size:
                shift = mean[owner]
            for j in range(i, stop):
                x[j] = (values[base + j] - shift) / scale if scale > 0 else np.float32(0)
            i = stop

        if bits <= _LINEAR_BITS:  # comparing with every midpoint vectorizes: faster while few
            index[:] = 0
            for m in range(midpoints.size):
                for j in range(_STRIP):
                    index[j] += np.int32(midpoints[m] < x[j])
        else:
            for j in range(size):
                below, step = 0, 1 << (bits - 1)
                while step:
                    below += step * (midpoints[below + step - 1] < x[j])
                    step >>= 1
                index[j] = below

        for j in range(size):
            stream |= np.int64(index[j]) << filled
            filled += bits
            if filled >= 32:
                words[word] = stream & 0xFFFFFFFF
                word += 1
                stream >>= 32
                filled -= 32
    if filled:
        words[word] = stream & 0xFFFFFFFF


def _decode(words, absmax, mean, table, bits, block, start, out):  # type: ignore[no-untyped-def]
    """Fill out (fp32) with the values from element `start` on; words begin with its code."""
    mask = (1 << bits) - 1
    stream, filled, word = np.int64(0), 0, 0
    i = 0
    while i < out.size:
        owner = (start + i) // block
        stop = min(out.size, (owner + 1) * block - start)
        scale = absmax[owner]
        begin = i
        while i < stop:
            if filled < bits:
                stream |= np.int64(words[word]) << filled
                word += 1
                filled += 32
            out[i] = table[stream & mask] * scale
            stream >>= bits
            filled -= bits
            i += 1
        if mean.size:
            for j in range(begin, stop):
                out[j] += mean[owner]


@cache
def _compiled(function: Callable[..., None], signature: str) -> Callable[..., None]:
    import numba  # takes half a second: only when needed

    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(signature, cache=True, **options)(function)
    except RuntimeError:  # no folder on this machine can hold the cache
        return numba.njit(signature, **options)(function)


def _encoder() -> Callable[..., None]:
    return _compiled(_encode, "void(f4[::1], f4[::1], f4[::1], f4[::1], i8, i8, i8, u4[::1])")


def _decoder() -> Callable[..., None]:
    return _compiled(_decode, "void(u4[::1], f4[::1], f4[::1], f4[::1], i8, i8, i8, f4[::1])")


def _for_chunks(n: int, work: Callable[[int, int], None]) -> None:
    """work(start, stop) for every chunk of n elements, in parallel where it pays."""

    def run(first: int, last: int) -> None:
        for start in range(first, last, _CHUNK):
            work(start, min(start + _CHUNK, last))

    threads = min(torch.get_num_threads(), n // _CHUNK)
    if threads <= 1:
        run(0, n)
        return
    share = -(-n // (threads * _CHUNK)) * _CHUNK
    with ThreadPoolExecutor(threads) as pool:
        # list() raises what a thread raised.
        list(pool.map(lambda first: run(first, min(first + share, n)), range(0, n, share)))


def _fp32(constants: Tensor | None) -> np.ndarray:
    return np.empty(0, np.float32) if constants is None else constants.float().numpy()


def quantize_packed(
    values: Tensor, absmax: Tensor, mean: Tensor | None, codebook: Tensor, bits: int, block: int
) -> Tensor:
    encode = _encoder()
    midpoints = np.full(2**bits - 1, np.inf, np.float32)
    midpoints[: codebook.numel() - 1] = midpoints_of(codebook).numpy()
    scales, shifts = _fp32(absmax), _fp32(mean)
    words = torch.empty(n_words(values.numel(), bits), dtype=torch.int32)
    stream = words.numpy().view(np.uint32)

    def work(start: int, stop: int) -> None:
        chunk = values[start:stop].float().numpy()
        into = stream[start * bits // 32 : n_words(stop, bits)]
        encode(chunk, scales, shifts, midpoints, bits, block, start, into)

    _for_chunks(values.numel(), work)
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
    decode = _decoder()
    table = padded_table(codebook, bits).numpy()
    scales, shifts = _fp32(absmax), _fp32(mean)
    stream = words.numpy().view(np.uint32)
    out = torch.empty(n, dtype=dtype)

    def work(start: int, stop: int) -> None:
        part = out[start:stop]
        chunk = part if dtype == torch.float32 else torch.empty(stop - start)
        codes = stream[start * bits // 32 : n_words(stop, bits)]
        decode(codes, scales, shifts, table, bits, block, start, chunk.numpy())
        if chunk is not part:
            part.copy_(chunk)

    _for_chunks(n, work)
    return out
