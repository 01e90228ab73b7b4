"""The fast decoder of any processor: one function for each width, compiled by Numba.

Import it late: Numba takes half a second.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from quantizers.kernels.cpu_packed import FP16, FP32, KINDS, Arrays, bits_of, typed
from quantizers.kernels.cpu_threads import in_threads
from quantizers.kernels.jit import compiled, features

LOOKUP_BITS = 8
_STRIP = 2048  # elements taken through each step at a time


@cache
def runs_here() -> bool:
    """Whether the processor rounds to fp16 by itself: all but x86 from before 2013."""
    if platform.machine() in ("aarch64", "arm64"):
        return True
    return "f16c" in features()


def decode(packed: Arrays, out: Tensor, done: int) -> None:
    """Fill out from element `done` on, a multiple of 32."""
    bits, kind, values = packed.bits, KINDS[out.dtype], bits_of(out)
    entries = entries_of(packed.table, bits)
    signature = (
        f"void(u4[::1], UniTuple(f4[::1], 2), {typed(entries)}, UniTuple(i8, 4), i8, f4[::1],"
        " u2[::1])"
    )
    blocks = packed.blocks
    lookup = compiled(lookup_of(bits), signature)
    empty32, empty16 = np.empty(0, np.float32), np.empty(0, np.uint16)

    def fill(first: int, last: int, codes: np.ndarray) -> None:
        part = values[first:last]
        into = (part, empty16) if kind == FP32 else (empty32, part)
        place = (first, last - first, blocks.row, blocks.size)
        lookup(codes, packed.constants, entries, place, kind, *into)

    def fill_groups(first: int, last: int) -> None:
        begin, end = done + first, done + last
        fill(begin, end, packed.words[begin * bits // 32 : end * bits // 32])

    whole = values.size // 32 * 32
    in_threads(whole - done, fill_groups)
    if whole < values.size:  # the last group, its words made whole
        codes = packed.words[whole * bits // 32 :]
        fill(whole, values.size, np.pad(codes, (0, bits - codes.size)))


@intrinsic
def _to_half(typing_context: Any, x: Any) -> Any:
    """fp32 to the bits of an fp16, round to nearest even."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate


def codes_a_lookup(bits: int) -> int:
    """A table of all pairs of codes stays in the second cache up to 7 bit: 128 KiB."""
    return 2 if bits <= 7 else 1


def entries_of(table: np.ndarray, bits: int) -> np.ndarray:
    """What the fast decoder looks up: the fp32 values of one code, or of two, as one integer."""
    if codes_a_lookup(bits) == 1:
        return table.view(np.int32)
    low, high = np.tile(table, table.size), np.repeat(table, table.size)
    return np.stack([low, high], axis=1).view(np.int64).ravel()


@cache
def lookup_of(bits: int) -> Callable[..., None]:
    """A decoder for one width up to LOOKUP_BITS, several times as fast as `cpu_loops.decode`.

    Constant shifts, no carry from one code to the next, mostly two codes a look-up. Indices are
    unsigned because signed ones are tested for being negative.
    """
    width = codes_a_lookup(bits)
    field, lookups = bits * width, 32 // width
    mask = np.uint32((1 << field) - 1)

    def lookup(words, constants, entries, place, kind, out, out16):  # type: ignore[no-untyped-def]
        """Write values to out (fp32) or, as bits of `kind`, to out16.

        words: whole groups of 32 codes; constants: (absmax, mean or nothing); place: the first
        element, how many, weights of a row and of a block."""
        absmax, mean = constants
        start, size, row, block = place
        values = np.empty(_STRIP, np.float32)
        raw, bits_of = values.view(entries.dtype), values.view(np.uint32)
        column = start % row
        blocks_a_row = (row + block - 1) // block
        w, owner = np.uintp(0), np.uintp(start // row * blocks_a_row + column // block)
        left = np.uintp(min(block - column % block, row - column))  # of the owner's block
        left_row = np.uintp(row - column) - left  # of the row after it
        base, stop = np.uintp(0), np.uintp(size)
        while base < stop:
            count = min(stop - base, np.uintp(_STRIP))
            first = np.uintp(0)
            for _ in range((count + np.uintp(31)) >> np.uintp(5)):
                for i in range(lookups):
                    at, offset = i * field >> 5, i * field & 31
                    code = words[w + np.uintp(at)] >> np.uint32(offset)
                    if offset + field > 32:
                        code |= words[w + np.uintp(at + 1)] << np.uint32(32 - offset)
                    raw[first + np.uintp(i)] = entries[code & mask]
                w += np.uintp(bits)
                first += np.uintp(lookups)

            begin = np.uintp(0)
            while begin < count:
                end = min(count, begin + left)
                scale = absmax[owner]
                for j in range(begin, end):
                    values[j] *= scale
                if mean.size:
                    shift = mean[owner]
                    for j in range(begin, end):
                        values[j] += shift
                left -= end - begin
                begin = end
                if left == np.uintp(0):
                    owner += np.uintp(1)
                    if left_row == np.uintp(0):
                        left_row = np.uintp(row)
                    left = min(np.uintp(block), left_row)
                    left_row -= left

            if kind == FP32:
                for j in range(count):
                    out[base + j] = values[j]
            elif kind == FP16:
                for j in range(count):
                    out16[base + j] = _to_half(values[j])  # type: ignore[call-arg]
            else:
                for j in range(count):
                    x = bits_of[j]
                    even = (x >> np.uint32(16)) & np.uint32(1)
                    half = (x + np.uint32(0x7FFF) + even) >> np.uint32(16)
                    if x & np.uint32(0x7FFFFFFF) > np.uint32(0x7F800000):
                        half = np.uint32(0x7FC0)
                    out16[base + j] = np.uint16(half)
            base += count

    return lookup
