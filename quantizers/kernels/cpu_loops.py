"""The loops that Numba compiles for the CPU path: plain functions on arrays, no torch.

They compute in fp32 exactly what `reference` defines.
"""

from __future__ import annotations

import numpy as np

STRIP = 256  # elements the encoder takes through each step at a time
LINEAR_BITS = 8  # up to here it compares with every midpoint, above it searches


def encode(values, absmax, mean, midpoints, bits, block, start, words):  # type: ignore[no-untyped-def]
    """Pack the codes of values (fp32), which begin at element `start` of the tensor.

    midpoints: 2^bits - 1 of them, padded with inf; mean: empty if not centered.
    """
    x = np.zeros(STRIP, np.float32)
    index = np.empty(STRIP, np.int32)
    shift = np.float32(0)
    stream, filled, word = np.int64(0), 0, 0
    for base in range(0, values.size, STRIP):
        size = min(STRIP, values.size - base)

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


def decode(words, absmax, mean, table, bits, block, start, out):  # type: ignore[no-untyped-def]
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
