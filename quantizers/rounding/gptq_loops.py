"""The loops that Numba compiles for GPTQ on the CPU: plain functions on arrays, no torch."""

from __future__ import annotations

import numpy as np

TILE = 64  # rows, the lanes
_LANES = np.uintp(TILE)
BLOCK = 32  # columns that share a pass over the errors before them
LINEAR = 16  # midpoints up to which comparing with all of them is fastest

FP32, FP16 = 0, 1  # as in kernels/cpu_packed.py; else bf16
LEAST_NORMAL, LARGEST = np.float32(2.0**-14), np.float32(65504)  # of fp16


def round_block(weight, shared, constants, tables, place, results, scratch):  # type: ignore[no-untyped-def]
    """Round up to BLOCK columns of a tile, from step `begin` on.

    weight: fp32 [n * TILE], by step, rows that are not there 0; shared: (order, ratios, weights) of
    Factor; constants: (absmax, mean or nothing) of the whole matrix; tables: (midpoints, codebook),
    of more than LINEAR midpoints 2^k - 1; place: begin, the tile's first row, columns that are
    rounded to codes, weights of a row and of a block, what they are stored as, and the other
    columns; results: (codes [n * TILE] by step, kept [rows, c], losses [rows]) of the tile;
    scratch: (errors, sums), as add_up has them.

    Rows of one array lie a constant apart, which tells the compiler that none of them overlap, and
    indices are unsigned, as signed ones are tested for being negative: both let it use vectors.
    """
    order, ratios, costs = shared
    absmax, mean = constants
    midpoints, table = tables
    begin, first_row, body, row, block, stored, stored_kept = place
    codes, kept, losses = results
    errors, sums = scratch
    rows, n = len(losses), len(order)
    # From a row to the next: so many blocks on, and so many weights further within one.
    by_row = row == body
    blocks_on = (row + block - 1) // block if by_row else body // block
    weights_on = 0 if by_row else body % block
    scale, center = np.zeros(TILE, np.float32), np.zeros(TILE, np.float32)
    w, x, value = np.zeros(TILE, np.float32), np.zeros(TILE, np.float32), np.zeros(TILE, np.float32)
    code, raw = np.zeros(TILE, np.uint32), value.view(np.uint32)
    for step in range(begin, min(begin + BLOCK, n)):
        total, now = np.uintp(step - begin) * _LANES, np.uintp(step) * _LANES
        column = order[step]
        k = begin
        while k + 4 <= step:
            a, b = ratios[step, k], ratios[step, k + 1]
            c, d = ratios[step, k + 2], ratios[step, k + 3]
            first = np.uintp(k) * _LANES
            second, third = first + _LANES, first + _LANES * np.uintp(2)
            fourth = third + _LANES
            for r in range(_LANES):
                taken = sums[total + r] + a * errors[first + r] + b * errors[second + r]
                sums[total + r] = taken + c * errors[third + r] + d * errors[fourth + r]
            k += 4
        while k < step:
            a, first = ratios[step, k], np.uintp(k) * _LANES
            for r in range(_LANES):
                sums[total + r] += a * errors[first + r]
            k += 1
        for r in range(_LANES):
            w[r] = weight[now + r] - sums[total + r]
        kind = stored
        if column >= body:  # it stays in 16 bit
            kind = stored_kept
            value[:] = w
        else:
            if by_row:
                owner, within = first_row * blocks_on + column // block, 0
            else:
                owner, within = divmod(first_row * body + column, block)
            for r in range(rows):
                scale[r] = absmax[owner]
                if mean.size:
                    center[r] = mean[owner]
                owner += blocks_on
                within += weights_on
                if within >= block:
                    within -= block
                    owner += 1
            for r in range(TILE):
                quotient = (w[r] - center[r]) / scale[r]
                x[r] = quotient if scale[r] > 0 else np.float32(0)
            if midpoints.size <= LINEAR:
                code[:] = 0
                for m in range(midpoints.size):
                    for r in range(TILE):
                        code[r] += np.uint32(midpoints[m] < x[r])
            else:
                code[:] = 0
                width = np.uint32((midpoints.size + 1) >> 1)
                while width:  # halves of 2^k - 1 midpoints: every row takes the same steps
                    middle = width - np.uint32(1)
                    for r in range(TILE):
                        code[r] += width * np.uint32(midpoints[code[r] + middle] < x[r])
                    width >>= np.uint32(1)
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
        for r in range(_LANES):
            errors[now + r] = w[r] - value[r]
        for r in range(np.uintp(rows)):
            error = np.float64(errors[now + r])
            losses[r] += error * error * costs[step]
        if column >= body:
            for r in range(rows):
                kept[r, column - body] = value[r]
        else:
            for r in range(_LANES):
                codes[now + r] = code[r]


def put_in_place(order, by_step, codes):  # type: ignore[no-untyped-def]
    """codes[r, order[step]] = by_step[step * TILE + r] of all columns that have codes."""
    rows, body = codes.shape
    for r in range(np.uintp(rows)):
        row = codes[r]
        for step in range(np.uintp(len(order))):
            if order[step] < body:
                row[order[step]] = by_step[step * _LANES + r]
