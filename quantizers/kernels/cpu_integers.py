"""Rounded rows and products of integers on a CPU, in one pass each over what they read and write.

See `cpu_tile` for how sums are computed; with them go the scales and the bias.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from quantizers.integers import Codes, IntegerWeight
from quantizers.kernels.cpu_threads import CHUNK, in_threads
from quantizers.kernels.jit import compiled

_PIECE = 2**20  # products that are worth a thread's while
_INT32 = 2**31 - 1
_ROUND = "void(f4[:,::1], i8, f4[::1], i1[:,::1], f4[::1])"
_TOTALS = "void(i1[:,::1], i8, i4[:,::1])"
_MULTIPLY = (
    "void(Tuple((i1[:,::1], i4[:,::1], f4[::1])), Tuple((u1[::1], f4[:,::1], f4[::1])),"
    " f4[:,::1], i8, i8, i8)"
)
_INFINITE = np.int32(0x7F800000)  # bits of fp32; NaNs lie above
# Added and taken off again, it rounds what is below 2^22 to whole numbers, halves to even.
_ROUNDER = np.float32(3 * 2.0**22)


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


def covers(x: Codes, w: IntegerWeight) -> bool:
    """Whether `multiply` takes this: int8 whose sums fit int32, groups of whole steps."""
    whole_steps = w.scales.shape[1] == 1 or w.group % 4 == 0
    fits = min(w.group, w.shape[1]) * x.limit * w.limit <= _INT32
    return w.values.dtype == torch.int8 and w.values.numel() > 0 and fits and whole_steps


def multiply(x: Codes, w: IntegerWeight, bias: Tensor | None) -> Tensor:
    """fp32 [tokens, d_out]: see `kernels.integer_product`."""
    from quantizers.kernels import cpu_tile

    tokens, (d_out, d_in) = len(x.values), w.shape
    values = x.values.contiguous()
    if d_in % 4:
        values = torch.nn.functional.pad(values, (0, -d_in % 4))
    array, scales = values.numpy(), w.scales_of_panels.numpy()
    group = w.group if len(scales) > 1 else values.shape[1]
    totals = np.empty((tokens, len(scales)), np.int32)
    compiled(_totals, _TOTALS)(array, group, totals)
    result = torch.zeros(tokens, scales.shape[1])
    added = np.full(scales.shape[1], -0.0, np.float32)  # -0.0 added changes nothing
    if bias is not None:
        added[:d_out] = bias.numpy()
    operands = (
        (array, totals, x.scale.view(-1).numpy()),
        (w.tiles.numpy(), scales, added),
        result.numpy(),
        group,
    )
    most, vectors = cpu_tile.widest()
    rows = vectors * cpu_tile.LANES
    loop = compiled(cpu_tile.product_of(cpu_tile.instructions(), most, vectors), _MULTIPLY)
    in_threads(
        -(-d_out // rows),
        lambda first, last: loop(*operands, first, last),
        max(1, _PIECE // max(1, rows * d_in * tokens)),
    )
    return result if result.shape[1] == d_out else result[:, :d_out].contiguous()


@cache
def unsupported() -> str | None:
    """Why `multiply` is not used on this processor: on extreme values it must be exact."""
    place = torch.arange(70 * 260) * 31 % 255 - 127
    values = place.to(torch.int8).view(70, 260)
    x = Codes(values.flip(0, 1)[:13].contiguous(), torch.ones(13, 1), 127)  # tiles of 6, 4, 2, 1
    x.values[:2], values[:2], values[2] = 127, -127, 127
    w = IntegerWeight(values, torch.ones(70, 1), 260, 127)
    try:
        found = multiply(x, w, None)
    except Exception as error:  # Numba fails in many ways
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    exact = x.values.double() @ values.double().T
    return None if torch.equal(found.double(), exact) else "sums are not exact here"


def _totals(x, group, totals):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        for g in range(totals.shape[1]):
            part = x[i, g * group : min((g + 1) * group, x.shape[1])]
            total = np.int32(0)
            for j in range(part.size):
                total += np.int32(part[j])
            totals[i, g] = total * np.int32(128)


def _round(x, limit, given, values, scales):  # type: ignore[no-untyped-def]
    bound, largest = np.float32(limit), np.empty(1, np.float32)
    bits_of_largest = largest.view(np.int32)
    for i in range(len(x)):
        row, out = x[i], values[i]
        raw, most = row.view(np.int32), np.int32(0)
        for j in range(raw.size):  # bits of magnitudes are in the order of the magnitudes
            most = max(most, np.int32(raw[j] & np.int32(0x7FFFFFFF)))
        bits_of_largest[0] = most
        scale = given[0] if given.size else largest[0] / bound
        scale = np.float32(1) if scale == 0 else scale
        if most >= _INFINITE or not abs(scale) < np.inf:
            scales[i] = np.nan
            out[:] = 0
            continue
        scales[i] = scale
        for j in range(row.size):
            ratio = row[j] / scale
            ratio = bound if ratio > bound else ratio
            ratio = -bound if ratio < -bound else ratio
            out[j] = np.int8((ratio + _ROUNDER) - _ROUNDER)
