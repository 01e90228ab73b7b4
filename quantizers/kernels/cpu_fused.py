"""Loops for Numba that multiply and add with one rounding, as torch's addcmul does.

Imports Numba, which takes half a second: import this where it is needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic


@intrinsic
def _fused(typing_context, a, b, c):  # type: ignore[no-untyped-def]
    """a b + c of fp32."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


fused: Any = _fused  # calls of an intrinsic lack its first argument


def fold(sums, scales, result):  # type: ignore[no-untyped-def]
    for i in range(len(sums)):
        source, target = sums[i], result[i]
        for j in range(source.size):
            target[j] = fused(np.float32(source[j]), scales[j], target[j])


def multiply(x, w, scales, group, result, first, last):  # type: ignore[no-untyped-def]
    """Rows first to last of w, int8, with the few rows of x."""
    columns = x.shape[1]
    for row in range(first, last):
        for token in range(len(x)):
            total = np.float32(0)
            for g in range(scales.shape[1]):
                end = min((g + 1) * group, columns)
                a, b = x[token, g * group : end], w[row, g * group : end]
                some = np.int32(0)
                for j in range(a.size):
                    some += np.int32(a[j]) * np.int32(b[j])
                total = fused(np.float32(some), scales[row, g], total)
            result[token, row] = total
