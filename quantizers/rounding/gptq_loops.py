"""The loops that Numba compiles for GPTQ on the CPU: plain functions on arrays, no torch."""

from __future__ import annotations

import numpy as np

TILE = 64  # rows, the lanes
BLOCK = 32  # columns that share a pass over the errors before them; a multiple of 4
LINEAR = 16  # midpoints up to which comparing with all of them is fastest

FP32, FP16 = 0, 1  # as in kernels/cpu_packed.py; else bf16
LEAST_NORMAL, LARGEST = np.float32(2.0**-14), np.float32(65504)  # of fp16


def add_up(ratios, begin, errors, sums):  # type: ignore[no-untyped-def]
    """sums[j] = what the columns before `begin`, a multiple of 4, take off column begin + j.

    ratios: fp32 [n, n], [i, k] of Factor; errors: fp32 [n, TILE]; sums: fp32 [BLOCK, TILE].
    """
    sums[:] = 0
    count = min(BLOCK, len(ratios) - begin)
    for k in range(0, begin, 4):
        first, second, third, fourth = errors[k], errors[k + 1], errors[k + 2], errors[k + 3]
        for j in range(count):
            a, b = ratios[begin + j, k], ratios[begin + j, k + 1]
            c, d = ratios[begin + j, k + 2], ratios[begin + j, k + 3]
            total = sums[j]
            for r in range(TILE):
                total[r] = total[r] + a * first[r] + b * second[r] + c * third[r] + d * fourth[r]


def round_block(weight, shared, constants, tables, place, results, scratch):  # type: ignore[no-untyped-def]
    """Round up to BLOCK columns of a tile, from step `begin` on.

    weight: fp32 [rows, n]; shared: (order, ratios, weights) of Factor; constants: (absmax, mean or
    nothing) of the whole matrix; tables: (midpoints, codebook); place: begin, the tile's first row,
    columns that are rounded to codes, weights of a row and of a block, what they are stored as, and
    the other columns; results: (codes, kept, losses) of the tile; scratch: (errors, sums).
    """
    order, ratios, costs = shared
    absmax, mean = constants
    midpoints, table = tables
    begin, first_row, body, row, block, stored, stored_kept = place
    codes, kept, losses = results
    errors, sums = scratch
    rows, n = weight.shape
    blocks_a_row = (row + block - 1) // block
    scale, center = np.zeros(TILE, np.float32), np.zeros(TILE, np.float32)
    w, x, value = np.zeros(TILE, np.float32), np.zeros(TILE, np.float32), np.zeros(TILE, np.float32)
    code, raw = np.zeros(TILE, np.int32), value.view(np.uint32)
    for step in range(begin, min(begin + BLOCK, n)):
        total, error, column = sums[step - begin], errors[step], order[step]
        for k in range(begin, step):
            ratio, before = ratios[step, k], errors[k]
            for r in range(TILE):
                total[r] += ratio * before[r]
        for r in range(rows):
            w[r] = weight[r, column] - total[r]
        kind = stored
        if column >= body:  # it stays in 16 bit
            kind = stored_kept
            value[:] = w
        else:
            for r in range(rows):
                at = (first_row + r) * body + column
                owner = at // row * blocks_a_row + at % row // block
                scale[r] = absmax[owner]
                if mean.size:
                    center[r] = mean[owner]
            for r in range(TILE):
                quotient = (w[r] - center[r]) / scale[r]
                x[r] = quotient if scale[r] > 0 else np.float32(0)
            if midpoints.size <= LINEAR:
                code[:] = 0
                for m in range(midpoints.size):
                    for r in range(TILE):
                        code[r] += np.int32(midpoints[m] < x[r])
            else:
                for r in range(TILE):
                    low, high = np.int32(0), np.int32(midpoints.size)
                    while low < high:
                        middle = (low + high) >> 1
                        if midpoints[middle] < x[r]:
                            low = middle + 1
                        else:
                            high = middle
                    code[r] = low
            for r in range(TILE):
                value[r] = table[code[r]] * scale[r]
            if mean.size:
                for r in range(TILE):
                    value[r] += center[r]
        if kind == FP16:
            for r in range(TILE):
                if abs(value[r]) < LEAST_NORMAL:  # to multiples of 2^-24, which 0.5 is counted in
                    near = (abs(value[r]) + np.float32(0.5)) - np.float32(0.5)
                    value[r] = near if value[r] >= 0 else -near
                else:
                    odd = (raw[r] >> np.uint32(13)) & np.uint32(1)
                    raw[r] = (raw[r] + np.uint32(0xFFF) + odd) & np.uint32(0xFFFFE000)
                    if abs(value[r]) > LARGEST:
                        value[r] = np.inf
        elif kind != FP32:
            for r in range(TILE):
                odd = (raw[r] >> np.uint32(16)) & np.uint32(1)
                raw[r] = (raw[r] + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)
        for r in range(TILE):
            error[r] = w[r] - value[r]
        for r in range(rows):
            losses[r] += np.float64(error[r]) * np.float64(error[r]) * costs[step]
            if column >= body:
                kept[r, column - body] = value[r]
            else:
                codes[r, column] = code[r]
