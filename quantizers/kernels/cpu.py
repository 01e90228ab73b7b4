"""The packed kernels on the CPU, compiled by Numba (see `cpu_loops`).

They run without the interpreter lock in as many threads as torch uses.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from quantizers.codebooks import midpoints_of
from quantizers.kernels import cpu_loops as loops
from quantizers.kernels.jit import compiled
from quantizers.kernels.reference import padded_table
from quantizers.packing import n_words

# Elements a chunk: a multiple of 32 (whole words), and too few for torch to start threads itself.
_CHUNK = 2**14
# Pieces of the work for each thread.
_PIECES = 8


def _encoder() -> Callable[..., None]:
    return compiled(loops.encode, "void(f4[::1], f4[::1], f4[::1], f4[::1], i8, i8, i8, u4[::1])")


def _decoder() -> Callable[..., None]:
    return compiled(loops.decode, "void(u4[::1], f4[::1], f4[::1], f4[::1], i8, i8, i8, f4[::1])")


def _in_threads(n: int, run: Callable[[int, int], None]) -> None:
    """run(first, last) over n elements, in parallel where it pays; every first is whole chunks.

    Each thread takes the next piece when it has done one, so that one which starts late, or shares
    its core, does not hold the others up.
    """
    threads = min(torch.get_num_threads(), n // _CHUNK)
    if threads <= 1:
        run(0, n)
        return
    piece = -(-n // (threads * _PIECES * _CHUNK)) * _CHUNK
    firsts = iter(range(0, n, piece))

    def take_pieces() -> None:
        for first in firsts:  # the interpreter lock keeps two threads from taking the same
            run(first, min(first + piece, n))

    pool = _helpers(threads - 1, os.getpid())
    others = [pool.submit(take_pieces) for _ in range(threads - 1)]
    take_pieces()
    for other in others:
        other.result()


@lru_cache(maxsize=1)
def _helpers(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that stay: the system starts a new one on its parent's core, and takes longer to move
    it than a matrix takes. A fork of this process has none of them, so it makes its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="kbit-cpu")


def _for_chunks(n: int, work: Callable[[int, int, Tensor], None]) -> None:
    """work(start, stop, scratch) for every chunk of n elements.

    scratch: fp32 [_CHUNK] for the thread to use. Memory of its own for each chunk would be given
    back to the system and cleared again in between, which takes longer than the work.
    """

    def run(first: int, last: int) -> None:
        scratch = torch.empty(_CHUNK)
        for start in range(first, last, _CHUNK):
            work(start, min(start + _CHUNK, last), scratch)

    _in_threads(n, run)


def _fp32(constants: Tensor | None) -> np.ndarray:
    """By chunks: torch's own threads, once started, keep a core busy for a while."""
    if constants is None:
        return np.empty(0, np.float32)
    wide = torch.empty(constants.numel())
    for part, narrow in zip(wide.split(_CHUNK), constants.split(_CHUNK), strict=True):
        part.copy_(narrow)
    return wide.numpy()


def quantize_packed(
    values: Tensor, absmax: Tensor, mean: Tensor | None, codebook: Tensor, bits: int, block: int
) -> Tensor:
    encode = _encoder()
    midpoints = np.full(2**bits - 1, np.inf, np.float32)
    midpoints[: codebook.numel() - 1] = midpoints_of(codebook).numpy()
    scales, shifts = _fp32(absmax), _fp32(mean)
    words = torch.empty(n_words(values.numel(), bits), dtype=torch.int32)
    stream = words.numpy().view(np.uint32)

    def work(start: int, stop: int, scratch: Tensor) -> None:
        chunk = scratch[: stop - start].copy_(values[start:stop]).numpy()
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
    if n == 0:
        return torch.empty(0, dtype=dtype)
    table = padded_table(codebook, bits).numpy()
    scales, shifts = _fp32(absmax), _fp32(mean)
    stream = words.numpy().view(np.uint32)
    # NumPy asks the system for huge pages, torch does not: clearing small ones takes longer than
    # the work.
    out = torch.from_numpy(np.empty(n * dtype.itemsize, np.uint8)).view(dtype)
    from quantizers.kernels import cpu_lookup as fast

    if bits <= fast.LOOKUP_BITS and fast.runs_here():
        _look_up(stream, scales, shifts, table, bits, block, out)
        return out
    decode = _decoder()

    def work(start: int, stop: int, scratch: Tensor) -> None:
        chunk = scratch[: stop - start]
        codes = stream[start * bits // 32 : n_words(stop, bits)]
        decode(codes, scales, shifts, table, bits, block, start, chunk.numpy())
        out[start:stop].copy_(chunk)

    _for_chunks(n, work)
    return out


def _look_up(
    stream: np.ndarray,
    scales: np.ndarray,
    shifts: np.ndarray,
    table: np.ndarray,
    bits: int,
    block: int,
    out: Tensor,
) -> None:
    from quantizers.kernels import cpu_lookup as fast

    entries = fast.entries_of(table, bits)
    entry = f"i{entries.itemsize}[::1]"
    signature = f"void(u4[::1], f4[::1], f4[::1], {entry}, i8, i8, i8, i8, f4[::1], u2[::1])"
    lookup = compiled(fast.lookup_of(bits), signature)
    kind = {torch.float32: fast.FP32, torch.float16: fast.FP16, torch.bfloat16: fast.BF16}
    wide = out.dtype == torch.float32

    def fill(first: int, last: int, codes: np.ndarray) -> None:
        part = out[first:last]
        out32 = part.numpy() if wide else np.empty(0, np.float32)
        out16 = np.empty(0, np.uint16) if wide else part.view(torch.uint16).numpy()
        args = (entries, block, first, last - first, kind[out.dtype], out32, out16)
        lookup(codes, scales, shifts, *args)

    whole = out.numel() // 32 * 32
    _in_threads(whole, lambda a, b: fill(a, b, stream[a * bits // 32 : b * bits // 32]))
    if whole < out.numel():  # the last group, its words made whole
        codes = stream[whole * bits // 32 :]
        fill(whole, out.numel(), np.pad(codes, (0, bits - codes.size)))
