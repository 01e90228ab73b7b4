"""The loops that Numba compiles for the CPU path: plain functions on arrays, no torch.

They compute in fp32 exactly what `reference` defines.
"""

from __future__ import annotations

import numpy as np

STRIP = 256  # elements the encoder takes through each step at a time
LINEAR_BITS = 8  # up to here it compares with every midpoint, above it searches


def encode(values, constants, midpoints, bits, place, words):  # type: ignore[no-untyped-def]
    """Pack the codes of values (fp32).

    constants: (absmax, mean), the latter empty if not centered; midpoints: 2^bits - 1 of them,
    padded with inf; place: the values' first element in the tensor, weights of a row and a block.
    """
    absmax, mean = constants
    start, row, block = place
    column = start % row
    owner = start // row * ((row + block - 1) // block) + column // block
    left = min(block - column % block, row - column)  # weights of the owner's block from here on
    left_row = row - column - left  # of the row after it
    x = np.zeros(STRIP, np.float32)
    index = np.empty(STRIP, np.int32)
    shift = np.float32(0)
    stream, filled, word = np.int64(0), 0, 0
    for base in range(0, values.size, STRIP):
        size = min(STRIP, values.size - base)

        i = 0
        while i < size:
            stop = min(size, i + left)
            scale = absmax[owner]
            if mean.size:
                shift = mean[owner]
            for j in range(i, stop):
                x[j] = (values[base + j] - shift) / scale if scale > 0 else np.float32(0)
            left -= stop - i
            i = stop
            if left == 0:
                owner += 1
                if left_row == 0:
                    left_row = row
                left = min(block, left_row)
                left_row -= left

        if bits <= LINEAR_BITS:  # comparing with every midpoint vectorizes: faster while few
            index[:] = 0
            for m in range(midpoints.size):
                for j in range(STRIP):
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


def pack(codes, bits, words):  # type: ignore[no-untyped-def]
    """Codes, uint16, to the words that begin with the first of them."""
    stream, filled, word = np.int64(0), 0, 0
    for code in codes:
        stream |= np.int64(code) << filled
        filled += bits
        if filled >= 32:
            words[word] = stream & 0xFFFFFFFF
            word += 1
            stream >>= 32
            filled -= 32
    if filled:
        words[word] = stream & 0xFFFFFFFF


def decode(words, constants, table, bits, place, out):  # type: ignore[no-untyped-def]
    """Fill out (fp32); words begin with its first code. Else as `encode`."""
    absmax, mean = constants
    start, row, block = place
    blocks_a_row = (row + block - 1) // block
    mask = (1 << bits) - 1
    stream, filled, word = np.int64(0), 0, 0
    i = 0
    while i < out.size:
        column = (start + i) % row
        owner = (start + i) // row * blocks_a_row + column // block
        stop = min(out.size, i + row - column, i + block - column % block)
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
