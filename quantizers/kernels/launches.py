"""Which kernel instance does a job, with which arguments: everything about a launch but the GPU.

Each function returns the launch and what it fills, or None for a case that the kernels do not
cover. Tensors are contiguous and on one device, as `PackedTensor` and `checks` have made sure.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantizers.granularity import Blocks
from quantizers.kernels import build, tuning
from quantizers.kernels.build import Instance
from quantizers.kernels.search import search_of
from quantizers.packed import PackedTensor

_ONE_BLOCK = 62  # any index shifted by so much is 0
FUSED_COLUMNS = 128  # the fused products take so many columns at a time
GEMV_COLUMNS = 1024  # of them a warp of gemv
MOST_SHARED_BITS = 8  # tables of more bits do not fit shared memory


@dataclass(frozen=True)
class Limits:
    """What a device has for a product with packed weights."""

    processors: int  # multiprocessors
    shared: int  # bytes of shared memory that a block may have
    gemv_threads: int  # that a block of gemv may have
    byte_tables: bool  # see tuning.byte_tables


@dataclass(frozen=True)
class Launch:
    """`blocks` blocks of `threads` threads of an instance, on the kernel's arguments by name."""

    instance: Instance
    blocks: int
    threads: int
    arguments: dict[str, Tensor | int | None]  # pointers (None: null) and integers, 8 bytes each
    shared: int = 0  # bytes of dynamic shared memory a block


def dequantize(q: PackedTensor) -> tuple[Launch, Tensor]:
    """The weights, [n]."""
    out = torch.empty(q.n, dtype=q.dtype, device=q.device)
    shift = _shift(q.blocks, smallest=8)
    whole_groups = shift is not None and q.bits <= MOST_SHARED_BITS
    group_shift = 0
    if shift is not None:
        group_shift = shift if shift == _ONE_BLOCK else shift - 3
    unroll = tuning.DEQUANTIZE_UNROLL if whole_groups else 1
    launch = Launch(
        Instance("dequantize", (q.bits, q.dtype, whole_groups)),
        -(-q.n // (8 * tuning.DEQUANTIZE_THREADS * unroll)),
        tuning.DEQUANTIZE_THREADS,
        {
            "stream": q.words,
            "absmax": q.absmax,
            "mean": q.mean,
            "codebook": q.codebook.to(q.device),
            "out": out,
            **_layout(q.blocks),
            "shift": group_shift,
            "n_codes": q.codebook.numel(),
            "bf16": int(q.absmax.dtype == torch.bfloat16),
        },
    )
    return launch, out


def quantize(values: Tensor, q: PackedTensor, processors: int) -> Launch:
    """Writes q's words, with its absmax and mean given."""
    return _quantize(values, q, processors)


def quantize_blocks(
    values: Tensor, q: PackedTensor, processors: int
) -> tuple[Launch, Tensor] | None:
    """(launch, problem) of one pass that writes q's words and absmax, for blocks that threads can
    share.

    problem: int32 [1]; not 0 afterwards if a weight is not finite or an absmax overflows 16 bit.
    """
    size = q.blocks.size
    covered = 16 <= size <= 8 * tuning.QUANTIZE_THREADS and not size & (size - 1)
    if not covered or not q.blocks.equal or q.mean is not None or q.bits > MOST_SHARED_BITS:
        return None
    problem = torch.zeros(1, dtype=torch.int32, device=values.device)
    return _quantize(values, q, processors, problem), problem


def token_logprobs(
    logits: Tensor, targets: Tensor, greedy: bool
) -> tuple[Launch, Tensor, Tensor | None] | None:
    """(launch, log-probabilities fp32 [n], greedy flags bool [n] if asked) of logits
    [n, vocabulary], for the types that are covered."""
    if logits.dtype not in build.C_TYPES or not logits.numel():
        return None
    n, vocabulary = logits.shape
    logprobs = torch.empty(n, device=logits.device)
    flags = torch.empty(n, dtype=torch.bool, device=logits.device) if greedy else None
    launch = Launch(
        Instance("logprob", (logits.dtype,)),
        n,
        tuning.LOGPROB_THREADS,
        {
            "logits": logits,
            "targets": targets,
            "logprobs": logprobs,
            "greedy": flags,
            "columns": vocabulary,
        },
    )
    return launch, logprobs, flags


def _quantize(
    values: Tensor, q: PackedTensor, processors: int, problem: Tensor | None = None
) -> Launch:
    search = search_of(q.codebook, q.bits, q.device)
    threads, one_pass = tuning.QUANTIZE_THREADS, problem is not None
    return Launch(
        Instance("quantize", (q.bits, q.dtype, one_pass)),
        min(-(-q.n // (8 * threads)), tuning.QUANTIZE_BLOCKS * processors),
        threads,
        {
            "weights": aligned(values),
            "absmax": q.absmax,
            "mean": q.mean,
            "midpoints": search.midpoints,
            "first": search.first,
            "stream": q.words,
            "problem": problem,
            **_layout(q.blocks),
            "shift": q.blocks.size.bit_length() - 1 if one_pass else 0,
            "bf16": int(q.absmax.dtype == torch.bfloat16),
            "key_shift": search.key_shift,
            "widest": search.widest,
            "near_zero": int(search.near_zero),
        },
    )


def gemv(
    x: Tensor, q: PackedTensor, bias: Tensor | None, limits: Limits
) -> tuple[Launch, Tensor] | None:
    """y = W x + bias for one row, x [1, d_in] and y [1, d_out]; else as `multiply`.

    The weights are not rounded to 16 bit: the sum of a block's products is scaled, in fp32.
    """
    d_out, d_in = q.shape
    segments = -(-d_in // GEMV_COLUMNS)
    most_warps = limits.gemv_threads // 32
    if x.shape[0] != 1 or segments > most_warps or q.n >= 2**31:
        return None
    shift = _covered_shift(x, q, bias)
    groups = most_warps // segments
    warps = segments * groups
    shared = _gemv_shared(q.bits, warps, limits.byte_tables)
    if shift is None or shift < 5 or shared > limits.shared:
        return None
    y = torch.empty(1, d_out, dtype=x.dtype, device=x.device)
    launch = Launch(
        Instance("gemv", (q.bits, x.dtype)),
        min(limits.processors, -(-d_out // groups)),
        32 * warps,
        {
            **_operands(x, q, {"codebook": q.codebook.to(x.device)}, bias, y),
            "d_in": d_in,
            "d_out": d_out,
            "shift": min(shift, 31),
            "n_codes": q.codebook.numel(),
            "segments": segments,
        },
        shared,
    )
    return launch, y


def _gemv_shared(bits: int, warps: int, byte_tables: bool) -> int:
    """Bytes of shared memory of gemv.cu: rings, table, the sums of two batches of 32 rows."""
    ring = (2 if bits == 8 else 4) * 128 * bits  # at 2 bit not used
    return _rings_and_table(bits, ring, warps, byte_tables) + 2 * 32 * warps * 4


def multiply(
    x: Tensor, q: PackedTensor, bias: Tensor | None, limits: Limits
) -> tuple[Launch, Tensor] | None:
    """y = x W^T + bias, x [m, d_in] and y [m, d_out] in the 16-bit type of absmax and bias."""
    m, (d_out, d_in) = len(x), q.shape
    shift = _covered_shift(x, q, bias)
    if shift is None or not 1 <= m <= tuning.MOST_MULTIPLY_ROWS or q.n >= 2**31:
        return None
    x_tiles = next(tiles for tiles in (1, 2, 4) if m <= 8 * tiles)
    chunks = tuning.multiply_chunks(q.bits)
    instance = Instance("multiply", (q.bits, x.dtype, x_tiles, chunks, shift < 6))
    all_segments = -(-d_in // (chunks * FUSED_COLUMNS))
    for most_warps in (tuning.multiply_threads(x_tiles) // 32, 8, 4):
        passes = -(-all_segments // most_warps)
        segments = -(-all_segments // passes)
        groups = most_warps // segments
        shared = _multiply_shared(instance, segments * groups, limits.byte_tables)
        if shared <= limits.shared:
            break
    else:
        return None
    y = torch.empty(m, d_out, dtype=x.dtype, device=x.device)
    launch = Launch(
        instance,
        min(limits.processors, -(-d_out // (16 * groups))),
        32 * segments * groups,
        {
            **_operands(x, q, {"levels": q.levels[shift >= 6]}, bias, y),
            "m": m,
            "d_in": d_in,
            "d_out": d_out,
            "shift": min(shift, 31),
            "n_codes": q.codebook.numel(),
            "segments": segments,
            "passes": passes,
        },
        shared,
    )
    return launch, y


def _multiply_shared(instance: Instance, warps: int, byte_tables: bool) -> int:
    """Bytes of shared memory of multiply.cu: as gemv.cu, and the sums of 8 tiles kept."""
    numbers = (p for p in instance.parameters if not isinstance(p, torch.dtype))
    bits, x_tiles, chunks, fine = (int(p) for p in numbers)
    ring = 2 * chunks * 16 * (16 * bits + (16 if bits == 8 and fine else 0))
    sums = (2 * warps + 8) * 16 * 8 * x_tiles * 4
    return _rings_and_table(bits, ring, warps, byte_tables) + sums


def _rings_and_table(bits: int, ring: int, warps: int, byte_tables: bool) -> int:
    """Bytes up to the end of the rings: as many as fit lie below the table, the rest above."""
    whole_bytes = byte_tables and 8 % bits == 0
    table = 2**16 if whole_bytes else 2 ** (bits * (2 if bits <= 4 else 1)) * 128
    return 2 * table + max(0, warps - (table - 1024) // ring) * ring


def _layout(blocks: Blocks) -> dict[str, Tensor | int | None]:
    return {"n": blocks.n, "row": blocks.row, "row_blocks": blocks.a_row, "block": blocks.size}


def _operands(
    x: Tensor, q: PackedTensor, table: dict[str, Tensor], bias: Tensor | None, y: Tensor
) -> dict[str, Tensor | int | None]:
    return {
        "x": aligned(x),
        "stream": aligned(q.words),
        "absmax": aligned(q.absmax),
        **table,
        "bias": bias,
        "y": y,
    }


def _covered_shift(x: Tensor, q: PackedTensor, bias: Tensor | None) -> int | None:
    """log2 of the block size; None for what no product with packed weights covers."""
    d_out, d_in = q.shape
    covered = (
        q.bits <= MOST_SHARED_BITS
        and q.mean is None
        and d_in >= FUSED_COLUMNS
        and d_in % FUSED_COLUMNS == 0
        and d_out >= 1
        and x.dtype in (torch.float16, torch.bfloat16)
        and x.dtype == q.absmax.dtype
        and (bias is None or bias.dtype == x.dtype)
    )
    return _shift(q.blocks, smallest=16) if covered else None


def _shift(blocks: Blocks, smallest: int) -> int | None:
    """log2 of a power of two from `smallest` up; for one block a tensor a shift to index 0."""
    if blocks.size >= blocks.n:
        return _ONE_BLOCK
    if not blocks.equal or blocks.size < smallest or blocks.size & (blocks.size - 1):
        return None
    return blocks.size.bit_length() - 1


def aligned(tensor: Tensor) -> Tensor:
    """Vector loads take 16 bytes at multiples of 16: a view that begins elsewhere is copied."""
    return tensor.clone() if tensor.data_ptr() % 16 else tensor
