"""The loops that Numba compiles for GPTQ on the CPU: plain functions on arrays, no torch."""

from __future__ import annotations

import numpy as np

TILE = 64  # rows, the lanes
_LANES = np.uintp(TILE)
BLOCK = 32  # columns that share a pass over the errors before them; a multiple of 8
LINEAR = 16  # midpoints up to which comparing with all of them is fastest

FP32, FP16 = 0, 1  # as in kernels/cpu_packed.py; else bf16
LEAST_NORMAL, LARGEST = np.float32(2.0**-14), np.float32(65504)  # of fp16


def add_up(ratios, begin, errors, sums):  # type: ignore[no-untyped-def]
    """sums[j] = what the columns before `begin`, a multiple of 8, take off column begin + j.

    ratios: fp32 [n, n], [i, k] of Factor; errors: fp32 [n * TILE]; sums: fp32 [BLOCK * TILE], rows
    after one another. Two columns and eight errors at a time: what is loaded serves several sums.
    Rows of one array lie a constant apart, which tells the compiler that none of them overlap, and
    indices are unsigned, as signed ones are tested for being negative: both let it use vectors.
    """
    sums[:] = 0
    last = len(ratios) - 1
    for k in range(0, begin, 8):
        p0 = np.uintp(k) * _LANES
        p1, p2, p3 = p0 + _LANES, p0 + np.uintp(2 * TILE), p0 + np.uintp(3 * TILE)
        p4, p5 = p0 + np.uintp(4 * TILE), p0 + np.uintp(5 * TILE)
        p6, p7 = p0 + np.uintp(6 * TILE), p0 + np.uintp(7 * TILE)
        for j in range(0, min(BLOCK, len(ratios) - begin), 2):
            one, two = ratios[begin + j], ratios[min(begin + j + 1, last)]  # beyond: not read
            a, b, c, d = one[k], one[k + 1], one[k + 2], one[k + 3]
            e, f, g, h = one[k + 4], one[k + 5], one[k + 6], one[k + 7]
            aa, bb, cc, dd = two[k], two[k + 1], two[k + 2], two[k + 3]
            ee, ff, gg, hh = two[k + 4], two[k + 5], two[k + 6], two[k + 7]
            to = np.uintp(j) * _LANES
            for r in range(_LANES):
                p, q, u, v = errors[p0 + r], errors[p1 + r], errors[p2 + r], errors[p3 + r]
                w, x, y, z = errors[p4 + r], errors[p5 + r], errors[p6 + r], errors[p7 + r]
                first, second = sums[to + r], sums[to + _LANES + r]
                first = first + a * p + b * q + c * u + d * v + e * w + f * x + g * y + h * z
                second = second + aa * p + bb * q + cc * u + dd * v
                second = second + ee * w + ff * x + gg * y + hh * z
                sums[to + r], sums[to + _LANES + r] = first, second


def round_block(weight, shared, constants, tables, place, results, scratch):  # type: ignore[no-untyped-def]
    """Round up to BLOCK columns of a tile, from step `begin` on.

    weight: fp32 [rows, n]; shared: (order, ratios, weights) of Factor; constants: (absmax, mean or
    nothing) of the whole matrix; tables: (midpoints, codebook), of more than LINEAR midpoints
    2^k - 1; place: begin, the tile's first row, columns that are rounded to codes, weights of a row
    and of a block, what they are stored as, and the other columns; results: (codes, kept, losses)
    of the tile; scratch: (errors, sums), as add_up has them.
    """
    order, ratios, costs = shared
    absmax, mean = constants
    midpoints, table = tables
    begin, first_row, body, row, block, stored, stored_kept = place
    codes, kept, losses = results
    errors, sums = scratch
    rows, n = weight.shape
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
        for r in range(np.uintp(rows)):
            w[r] = weight[r, column] - sums[total + r]
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
            for r in range(rows):
                codes[r, column] = code[r]
