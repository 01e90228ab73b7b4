"""Integer products on a CPU: what stands around the library's sums, in one pass each.

Rounding a row, and scaling sums, take plain torch five to eight passes. Of few rows of x the sums
are computed here too where there is a scale a group: a library's call a group would take longer.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from quantizers.integers import Codes, IntegerWeight
from quantizers.kernels.cpu_threads import CHUNK, in_threads
from quantizers.kernels.jit import compiled

FEW_TOKENS = 4
_MOST = np.finfo(np.float32).max
_ROUND = "void(f4[:,::1], i8, f4[::1], i1[:,::1], f4[::1])"
_FOLD = "void(i4[:,::1], f4[::1], f4[:,::1])"
_SCALE = "void(i4[:,::1], f4[::1], f4[::1], f4[:,::1])"
_MULTIPLY = "void(i1[:,::1], i1[:,::1], f4[:,::1], i8, f4[:,::1], i8, i8)"


def round_rows(x: Tensor, limit: int, fixed: Tensor | None) -> Codes:
    """As `reference.round_rows`."""
    rows, columns = x.shape
    codes = Codes(torch.empty(rows, columns, dtype=torch.int8), torch.empty(rows, 1), limit)
    source = x.detach().float().contiguous().numpy()
    given = np.empty(0, np.float32) if fixed is None else fixed.numpy()
    values, scales = codes.values.numpy(), codes.scale.view(-1).numpy()
    loop = compiled(_round, _ROUND)

    def run(first: int, last: int) -> None:
        loop(source[first:last], limit, given, values[first:last], scales[first:last])

    in_threads(rows, run, max(1, CHUNK // max(1, columns)))
    return codes


def fold(sums: Tensor, scales: Tensor, result: Tensor) -> None:
    """result += sums * scales, rounded once: fp32 and int32 [tokens, d_out], scales [d_out]."""
    from quantizers.kernels import cpu_fused

    loop = compiled(cpu_fused.fold, _FOLD)
    arrays = sums.numpy(), scales.numpy(), result.numpy()

    def run(first: int, last: int) -> None:
        loop(arrays[0][first:last], arrays[1], arrays[2][first:last])

    in_threads(len(sums), run, max(1, CHUNK // max(1, sums.shape[1])))


def scale(sums: Tensor, x: Codes, w: IntegerWeight) -> Tensor:
    """Of int32 sums [tokens, d_out] with a scale a row of w: fp32."""
    result = torch.empty(sums.shape)
    loop = compiled(_scale, _SCALE)
    by_token, by_row = x.scale.view(-1).numpy(), w.scales.view(-1).numpy()
    source, target = sums.numpy(), result.numpy()

    def run(first: int, last: int) -> None:
        loop(source[first:last], by_token[first:last], by_row, target[first:last])

    in_threads(len(sums), run, max(1, CHUNK // max(1, sums.shape[1])))
    return result


def multiply(x: Codes, w: IntegerWeight) -> Tensor:
    """fp32 [tokens, d_out] of few tokens and int8 weights, but for the tokens' scales."""
    from quantizers.kernels import cpu_fused

    result = torch.empty(len(x.values), len(w.values))
    arrays = x.values.numpy(), w.values.contiguous().numpy(), w.scales.contiguous().numpy()
    target, group = result.numpy(), w.group
    loop = compiled(cpu_fused.multiply, _MULTIPLY)
    in_threads(
        len(w.values),
        lambda first, last: loop(*arrays, group, target, first, last),
        max(1, CHUNK // max(1, x.values.shape[1])),
    )
    return result


def _round(x, limit, given, values, scales):  # type: ignore[no-untyped-def]
    bound = np.float32(limit)
    for i in range(len(x)):
        row, largest, finite = x[i], np.float32(0), np.int32(0)
        for j in range(row.size):
            size = abs(row[j])
            largest = size if size > largest else largest
            finite += np.int32(size <= _MOST)
        scale = given[0] if given.size else largest / bound
        scale = np.float32(1) if scale == 0 else scale
        if finite < row.size or not abs(scale) <= _MOST:
            scales[i] = np.nan
            values[i] = 0
            continue
        scales[i] = scale
        out = values[i]
        for j in range(row.size):
            ratio = np.rint(row[j] / scale)
            ratio = bound if ratio > bound else ratio
            ratio = -bound if ratio < -bound else ratio
            out[j] = np.int8(ratio)


def _scale(sums, by_token, by_row, result):  # type: ignore[no-untyped-def]
    for i in range(len(sums)):
        source, target, factor = sums[i], result[i], by_token[i]
        for j in range(source.size):
            target[j] = np.float32(source[j]) * by_row[j] * factor
