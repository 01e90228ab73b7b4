"""Which kernel instance does a job, with which arguments: everything about a launch but the GPU.

Each function allocates the result and returns it with the launch that fills it, or None for a case
that the kernels do not cover. Tensors are contiguous and on one device, as `checks` has made sure.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantizers.kernels import build, tuning
from quantizers.kernels.search import search_of
from quantizers.packing import n_words

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
    """Pointers (None: null) and integers, all 8 bytes, for `blocks` blocks of `threads` threads."""

    family: str
    name: str
    blocks: int
    threads: int
    arguments: tuple[Tensor | int | None, ...]
    shared: int = 0  # bytes of dynamic shared memory a block


def dequantize(
    words: Tensor,
    absmax: Tensor,
    mean: Tensor | None,
    codebook: Tensor,
    bits: int,
    block: int,
    n: int,
    dtype: torch.dtype,
) -> tuple[Launch, Tensor]:
    """The weights, [n]; arguments as `kernels.dequantize_packed` takes them."""
    out = torch.empty(n, dtype=dtype, device=words.device)
    shift = _log2(block, n, smallest=8)
    whole_groups = shift is not None and bits <= MOST_SHARED_BITS
    group_shift = 0
    if shift is not None:
        group_shift = shift if shift == _ONE_BLOCK else shift - 3
    unroll = tuning.DEQUANTIZE_UNROLL if whole_groups else 1
    launch = Launch(
        "dequantize",
        build.dequantize_name(bits, dtype, whole_groups),
        -(-n // (8 * tuning.DEQUANTIZE_THREADS * unroll)),
        tuning.DEQUANTIZE_THREADS,
        (
            words,
            absmax,
            mean,
            codebook.to(words.device),
            out,
            n,
            block,
            group_shift,
            codebook.numel(),
            int(absmax.dtype == torch.bfloat16),
        ),
    )
    return launch, out


def quantize(
    values: Tensor,
    absmax: Tensor,
    mean: Tensor | None,
    codebook: Tensor,
    bits: int,
    block: int,
    processors: int,
) -> tuple[Launch, Tensor]:
    """The packed words, with absmax and mean given."""
    return _quantize(values, absmax, mean, codebook, bits, block, 0, None, processors)


def quantize_blocks(
    values: Tensor, codebook: Tensor, bits: int, block: int, processors: int
) -> tuple[Launch, Tensor, Tensor, Tensor] | None:
    """(launch, words, absmax, problem) of one pass, for blocks that threads can share.

    problem: int32 [1]; not 0 afterwards if a weight is not finite or an absmax overflows 16 bit.
    """
    largest = 8 * tuning.QUANTIZE_THREADS
    shift = _log2(block, n=largest + 1, smallest=16)
    if shift is None or block > largest or bits > MOST_SHARED_BITS:
        return None
    sixteen = torch.bfloat16 if values.dtype == torch.bfloat16 else torch.float16
    absmax = values.new_empty(-(-values.numel() // block), dtype=sixteen)
    problem = torch.zeros(1, dtype=torch.int32, device=values.device)
    launch, words = _quantize(
        values, absmax, None, codebook, bits, block, shift, problem, processors
    )
    return launch, words, absmax, problem


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
        "logprob",
        build.logprob_name(logits.dtype),
        n,
        tuning.LOGPROB_THREADS,
        (logits, targets, logprobs, flags, vocabulary),
    )
    return launch, logprobs, flags


def _quantize(
    values: Tensor,
    absmax: Tensor,
    mean: Tensor | None,
    codebook: Tensor,
    bits: int,
    block: int,
    shift: int,
    problem: Tensor | None,
    processors: int,
) -> tuple[Launch, Tensor]:
    words = torch.empty(n_words(values.numel(), bits), dtype=torch.int32, device=values.device)
    threads = tuning.QUANTIZE_THREADS
    search = search_of(codebook, bits, values.device)
    launch = Launch(
        "quantize",
        build.quantize_name(bits, values.dtype, problem is not None),
        _blocks(values.numel(), 8 * threads, tuning.QUANTIZE_BLOCKS, processors),
        threads,
        (
            _aligned(values),
            absmax,
            mean,
            search.midpoints,
            search.first,
            words,
            problem,
            values.numel(),
            block,
            shift,
            int(absmax.dtype == torch.bfloat16),
            search.key_shift,
            search.widest,
            int(search.near_zero),
        ),
    )
    return launch, words


def gemv(
    x: Tensor,
    words: Tensor,
    absmax: Tensor,
    codebook: Tensor,
    bias: Tensor | None,
    bits: int,
    block: int,
    d_out: int,
    limits: Limits,
) -> tuple[Launch, Tensor] | None:
    """y = W x + bias for one row, x [1, d_in] and y [1, d_out]; else as `multiply`.

    The weights are not rounded to 16 bit: the sum of a block's products is scaled, in fp32.
    """
    d_in = x.shape[1]
    segments = -(-d_in // GEMV_COLUMNS)
    most_warps = limits.gemv_threads // 32
    if x.shape[0] != 1 or segments > most_warps or d_out * d_in >= 2**31:
        return None
    shift = _covered_shift(x, absmax, bias, bits, block, d_out)
    groups = most_warps // segments
    warps = segments * groups
    shared = _gemv_shared(bits, warps, limits.byte_tables)
    if shift is None or shift < 5 or shared > limits.shared:
        return None
    y = torch.empty(1, d_out, dtype=x.dtype, device=x.device)
    launch = Launch(
        "gemv",
        build.gemv_name(bits, x.dtype),
        min(limits.processors, -(-d_out // groups)),
        32 * warps,
        (
            _aligned(x),
            _aligned(words),
            _aligned(absmax),
            codebook.to(x.device),
            bias,
            y,
            d_in,
            d_out,
            min(shift, 31),
            codebook.numel(),
            segments,
        ),
        shared,
    )
    return launch, y


def _gemv_shared(bits: int, warps: int, byte_tables: bool) -> int:
    """Bytes of shared memory of gemv.cu: rings, table, the sums of two batches of 32 rows."""
    ring = (2 if bits == 8 else 4) * 128 * bits  # at 2 bit not used
    return _rings_and_table(bits, ring, warps, byte_tables) + 2 * 32 * warps * 4


def multiply(
    x: Tensor,
    words: Tensor,
    absmax: Tensor,
    codebook: Tensor,
    bias: Tensor | None,
    bits: int,
    block: int,
    d_out: int,
    limits: Limits,
) -> tuple[Launch, Tensor] | None:
    """y = x W^T + bias, x [m, d_in] and y [m, d_out] in the 16-bit type of absmax and bias."""
    m, d_in = x.shape
    shift = _covered_shift(x, absmax, bias, bits, block, d_out)
    if shift is None or not 1 <= m <= tuning.MULTIPLY_ROWS or d_out * d_in >= 2**31:
        return None
    x_tiles, chunks = -(-m // 8), tuning.multiply_chunks(bits)
    all_segments = -(-d_in // (chunks * FUSED_COLUMNS))
    for most_warps in (tuning.MULTIPLY_THREADS // 32, 8, 4):
        passes = -(-all_segments // most_warps)
        segments = -(-all_segments // passes)
        groups = most_warps // segments
        shared = _multiply_shared(bits, x_tiles, chunks, segments * groups, limits.byte_tables)
        if shared <= limits.shared:
            break
    else:
        return None
    y = torch.empty(m, d_out, dtype=x.dtype, device=x.device)
    launch = Launch(
        "multiply",
        build.multiply_name(bits, x.dtype, x_tiles, chunks, fine=shift < 6),
        min(limits.processors, -(-d_out // (16 * groups))),
        32 * segments * groups,
        (
            _aligned(x),
            _aligned(words),
            _aligned(absmax),
            codebook.to(x.device),
            bias,
            y,
            m,
            d_in,
            d_out,
            min(shift, 31),
            codebook.numel(),
            segments,
            passes,
        ),
        shared,
    )
    return launch, y


def _multiply_shared(bits: int, x_tiles: int, chunks: int, warps: int, byte_tables: bool) -> int:
    """Bytes of shared memory of multiply.cu: as gemv.cu, and the sums of 8 tiles kept."""
    ring = 2 * chunks * 16 * (16 * bits + (16 if bits == 8 else 0))
    sums = (2 * warps + 8) * 16 * 8 * x_tiles * 4
    return _rings_and_table(bits, ring, warps, byte_tables) + sums


def _rings_and_table(bits: int, ring: int, warps: int, byte_tables: bool) -> int:
    """Bytes up to the end of the rings: as many as fit lie below the table, the rest above."""
    whole_bytes = byte_tables and 8 % bits == 0
    table = 2**16 if whole_bytes else 2 ** (bits * (2 if bits <= 4 else 1)) * 128
    return 2 * table + max(0, warps - (table - 1024) // ring) * ring


def _covered_shift(
    x: Tensor, absmax: Tensor, bias: Tensor | None, bits: int, block: int, d_out: int
) -> int | None:
    """log2 of the block size; None for what no product with packed weights covers."""
    d_in = x.shape[1]
    covered = (
        bits <= MOST_SHARED_BITS
        and d_in >= FUSED_COLUMNS
        and d_in % FUSED_COLUMNS == 0
        and d_out >= 1
        and x.dtype in (torch.float16, torch.bfloat16)
        and x.dtype == absmax.dtype
        and (bias is None or bias.dtype == x.dtype)
    )
    return _log2(block, d_out * d_in, smallest=16) if covered else None


def _log2(block: int, n: int, smallest: int) -> int | None:
    """log2 of a power of two from `smallest` up; for one block a tensor a shift to index 0."""
    if block >= n:
        return _ONE_BLOCK
    if block < smallest or block & (block - 1):
        return None
    return block.bit_length() - 1


def _blocks(n: int, tile: int, resident: int, processors: int) -> int:
    return min(-(-n // tile), resident * processors)


def _aligned(tensor: Tensor) -> Tensor:
    """Vector loads take 16 bytes at multiples of 16: a view that begins elsewhere is copied."""
    return tensor.clone() if tensor.data_ptr() % 16 else tensor
