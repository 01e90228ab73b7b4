"""The packed kernels on the CPU, compiled by Numba, each decoder for what it is fastest at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from quantizers.codebooks import midpoints_of
from quantizers.kernels import cpu_loops as loops
from quantizers.kernels.cpu_packed import Arrays
from quantizers.kernels.cpu_threads import CHUNK, in_threads
from quantizers.kernels.jit import compiled
from quantizers.packed import PackedTensor
from quantizers.packing import n_words

_ALIGNMENT = 64  # bytes


def quantize(values: Tensor, q: PackedTensor) -> None:
    signature = "void(f4[::1], UniTuple(f4[::1], 2), f4[::1], i8, UniTuple(i8, 3), u4[::1])"
    encode = compiled(loops.encode, signature)
    packed, bits, n = Arrays(q), q.bits, q.n
    midpoints = np.full(2**bits - 1, np.inf, np.float32)
    midpoints[: q.codebook.numel() - 1] = midpoints_of(q.codebook).numpy()
    row, block = packed.blocks.row, packed.blocks.size

    def work(start: int, stop: int, scratch: Tensor) -> None:
        chunk = scratch[: stop - start].copy_(values[start:stop]).numpy()
        into = packed.words[start * bits // 32 : n_words(stop, bits)]
        encode(chunk, packed.constants, midpoints, bits, (start, row, block), into)

    _for_chunks(n, work)


def pack(codes: Tensor, q: PackedTensor) -> None:
    put = compiled(loops.pack, "void(u2[::1], i8, u4[::1])")
    given, words, bits = codes.numpy(), Arrays(q).words, q.bits

    def work(first: int, last: int) -> None:
        put(given[first:last], bits, words[first * bits // 32 : n_words(last, bits)])

    in_threads(q.n, work)


def dequantize(q: PackedTensor) -> Tensor:
    if q.n == 0:
        return torch.empty(0, dtype=q.dtype)
    out = _empty(q.n, q.dtype)
    _decode(Arrays(q), out)
    return out


def decoder_name() -> str:
    """How this processor decodes up to 8 bit."""
    from quantizers.kernels import cpu_lookup, cpu_vector

    if not cpu_lookup.runs_here():
        return "plain loops: it has no F16C"
    if not cpu_vector.runs_here():
        return "look-ups: it has no AVX-512 VBMI"
    return "AVX-512 permutations"


def _decode(packed: Arrays, out: Tensor) -> None:
    from quantizers.kernels import cpu_lookup, cpu_vector

    if packed.bits > cpu_lookup.LOOKUP_BITS or not cpu_lookup.runs_here():
        _decode_any(packed, out)
        return
    done = cpu_vector.decode(packed, out) if cpu_vector.runs_here() else 0
    if done < out.numel():
        cpu_lookup.decode(packed, out, done)


def _decode_any(packed: Arrays, out: Tensor) -> None:
    signature = "void(u4[::1], UniTuple(f4[::1], 2), f4[::1], i8, UniTuple(i8, 3), f4[::1])"
    decode = compiled(loops.decode, signature)
    bits, row, block = packed.bits, packed.blocks.row, packed.blocks.size

    def work(start: int, stop: int, scratch: Tensor) -> None:
        chunk = scratch[: stop - start]
        codes = packed.words[start * bits // 32 : n_words(stop, bits)]
        place = (start, row, block)
        decode(codes, packed.constants, packed.table, bits, place, chunk.numpy())
        out[start:stop].copy_(chunk)

    _for_chunks(out.numel(), work)


def _empty(n: int, dtype: torch.dtype) -> Tensor:
    """[n], aligned for the widest stores.

    NumPy asks the system for huge pages, torch does not: clearing small ones takes longer than the
    work.
    """
    size = n * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT
    return torch.from_numpy(memory[first : first + size]).view(dtype)


def _for_chunks(n: int, work: Callable[[int, int, Tensor], None]) -> None:
    """work(start, stop, scratch) for every chunk of n elements.

    scratch: fp32 [CHUNK] for the thread to use. Memory of its own for each chunk would be given
    back to the system and cleared again in between, which takes longer than the work.
    """

    def run(first: int, last: int) -> None:
        scratch = torch.empty(CHUNK)
        for start in range(first, last, CHUNK):
            work(start, min(start + CHUNK, last), scratch)

    in_threads(n, run)
