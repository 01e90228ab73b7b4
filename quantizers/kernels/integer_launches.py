"""Which kernel instance rounds rows or multiplies integers, with which arguments: see launches."""

from __future__ import annotations

import torch
from torch import Tensor

from quantizers.integers import Codes, IntegerWeight, PackedIntegers
from quantizers.kernels import tuning
from quantizers.kernels.build import C_TYPES, Instance
from quantizers.kernels.launches import Launch, Limits, aligned

CHUNK = 64  # columns that the product takes at a time
MOST_COLUMNS = 2**17  # whose sums of int8 x int8 an int32 holds
_OUTPUTS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


def round_rows(x: Tensor, limit: int, fixed: Tensor | None) -> tuple[Launch, Codes] | None:
    """Of x [rows, d_in]; fixed: fp32 [1], the scale of all rows."""
    rows, columns = x.shape
    if x.dtype not in C_TYPES or not x.numel():
        return None
    each = 16 // x.dtype.itemsize
    a_thread = -(-columns // (each * tuning.ROUND_THREADS))
    vectors = next((count for count in tuning.ROUND_VECTORS if a_thread <= count), None)
    if columns % each or vectors is None:
        return None
    codes = Codes(
        torch.empty(rows, columns, dtype=torch.int8, device=x.device),
        torch.empty(rows, 1, device=x.device),
        limit,
    )
    launch = Launch(
        Instance("round_rows", (x.dtype, vectors)),
        rows,
        tuning.ROUND_THREADS,
        {
            "x": aligned(x),
            "fixed": fixed,
            "codes": codes.values,
            "scales": codes.scale,
            "columns": columns,
            "limit": limit,
        },
    )
    return launch, codes


def integer_product(
    x: Codes,
    w: IntegerWeight | PackedIntegers,
    bias: Tensor | None,
    dtype: torch.dtype,
    limits: Limits,
) -> tuple[Launch, Tensor] | None:
    """y [tokens, d_out] in `dtype`; bias: fp32 [d_out]."""
    (tokens, d_in), (d_out, _) = x.values.shape, w.shape
    groups, shift = w.scales.shape[1], w.group.bit_length() - 1
    packed = isinstance(w, PackedIntegers)
    weights = w.words if isinstance(w, PackedIntegers) else w.values
    covered = (
        tokens >= 1
        and d_out >= 1
        and d_in % CHUNK == 0
        and d_in <= MOST_COLUMNS
        and d_out * d_in < 2**31
        and tokens * max(d_in, d_out) < 2**31
        and (groups == 1 or (w.group >= 32 and not w.group & (w.group - 1)))
        and weights.dtype in (torch.int8, torch.int32)
        and dtype in _OUTPUTS
    )
    if not covered:
        return None
    scales = 0 if groups == 1 else 2 if w.group == 32 else 1
    tile_rows, tile_tokens = tile = tuning.integer_tile(tokens)
    shares, shared = _shares_and_shared(4 if packed else 8, tile)
    if shared > limits.shared:
        return None
    a_group = 1 if groups == 1 else max(1, w.group // CHUNK)  # chunks
    share = -(-(d_in // CHUNK) // shares)
    y = torch.empty(tokens, d_out, dtype=dtype, device=x.values.device)
    launch = Launch(
        Instance("integer_product", (4 if packed else 8, scales, *tile)),
        -(-d_out // tile_rows) * -(-tokens // tile_tokens),
        tuning.INTEGER_THREADS,
        {
            "x": aligned(x.values).view(torch.int32),
            "x_scales": x.scale,
            "weights": aligned(weights).view(torch.int32),
            "table": w.table.view(torch.int32) if isinstance(w, PackedIntegers) else None,
            "scales": w.scales,
            "bias": bias,
            "y": y,
            "m": tokens,
            "d_in": d_in,
            "d_out": d_out,
            "shift": 30 if groups == 1 else shift,
            "row_groups": groups,
            "share": -(-share // a_group) * a_group,
            "type": _OUTPUTS[dtype],
        },
        shared,
    )
    return launch, y


def scale_sums(
    sums: Tensor, x: Codes, w: IntegerWeight, bias: Tensor | None, dtype: torch.dtype
) -> tuple[Launch, Tensor] | None:
    """y in `dtype` of int32 sums [tokens, d_out], a scale a row of w."""
    tokens, columns = sums.shape
    if not sums.numel() or columns % 4 or dtype not in C_TYPES or w.scales.shape[1] != 1:
        return None
    y = torch.empty(tokens, columns, dtype=dtype, device=sums.device)
    strips = -(-columns // (4 * tuning.SCALE_THREADS))
    launch = Launch(
        Instance("scale_sums", (dtype,)),
        tokens * strips,
        tuning.SCALE_THREADS,
        {
            "sums": sums,
            "x_scales": x.scale,
            "scales": w.scales,
            "bias": bias,
            "y": y,
            "columns": columns,
            "strips": strips,
        },
    )
    return launch, y


def _shares_and_shared(bits: int, tile: tuple[int, int]) -> tuple[int, int]:
    """(into how many shares warps cut the columns, bytes of shared memory), as the kernel has
    them: the ring of chunks, whose place the sums take at the end."""
    rows, tokens = tile
    across, down = 2 if tokens > 32 else 1, 4 if rows > 64 else 2
    shares = tuning.INTEGER_THREADS // 32 // (across * down)
    ring = tuning.INTEGER_SLOTS * shares * (rows * CHUNK * bits // 8 + tokens * CHUNK)
    return shares, max(ring, shares * tokens * (rows + 4) * 4)
