"""Which kernel instance does a job, with which arguments: everything about a launch but the GPU.

Each function allocates the result and returns it with the launch that fills it, or None for a case
that the kernels do not cover. Tensors are contiguous and on one device, as `checks` has made sure.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantizers.codebooks import midpoints_of
from quantizers.kernels import build, tuning
from quantizers.packing import n_words

_ONE_BLOCK = 62  # any index shifted by so much is 0
FUSED_COLUMNS = 128  # the fused multiply takes so many columns at a time
MOST_SHARED_BITS = 8  # tables of more bits do not fit shared memory


@dataclass(frozen=True)
class Launch:
    """Pointers (None: null) and integers, all 8 bytes, for `blocks` blocks of `threads` threads."""

    family: str
    name: str
    blocks: int
    threads: int
    arguments: tuple[Tensor | int | None, ...]


def dequantize(
    words: Tensor,
    absmax: Tensor,
    mean: Tensor | None,
    codebook: Tensor,
    bits: int,
    block: int,
    n: int,
    dtype: torch.dtype,
    processors: int,
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
        _blocks(n, 8 * tuning.DEQUANTIZE_THREADS * unroll, tuning.DEQUANTIZE_BLOCKS, processors),
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
    launch = Launch(
        "quantize",
        build.quantize_name(bits, values.dtype, problem is not None),
        _blocks(values.numel(), 8 * threads, tuning.QUANTIZE_BLOCKS, processors),
        threads,
        (
            _aligned(values),
            absmax,
            mean,
            _tree(codebook, bits).to(values.device),
            words,
            problem,
            values.numel(),
            block,
            shift,
            int(absmax.dtype == torch.bfloat16),
        ),
    )
    return launch, words


def multiply(
    x: Tensor,
    words: Tensor,
    absmax: Tensor,
    codebook: Tensor,
    bias: Tensor | None,
    bits: int,
    block: int,
    d_out: int,
) -> tuple[Launch, Tensor] | None:
    """y = x W^T + bias, x [m, d_in] and y [m, d_out] in the 16-bit type of absmax and bias."""
    m, d_in = x.shape
    shift = _log2(block, d_out * d_in, smallest=16)
    covered = (
        shift is not None
        and bits <= MOST_SHARED_BITS
        and 1 <= m <= tuning.MAX_FUSED_ROWS
        and d_in >= FUSED_COLUMNS
        and d_in % FUSED_COLUMNS == 0
        and d_out >= 1
        and x.dtype in (torch.float16, torch.bfloat16)
        and x.dtype == absmax.dtype
        and (bias is None or bias.dtype == x.dtype)
    )
    if not covered or shift is None:
        return None
    y = torch.empty(m, d_out, dtype=x.dtype, device=x.device)
    tiles = tuning.multiply_tiles(m, bits)
    launch = Launch(
        "multiply",
        build.multiply_name(bits, x.dtype, tiles),
        -(-d_out // (16 * tiles[1])),
        tuning.MULTIPLY_THREADS,
        (
            _aligned(x),
            _aligned(words),
            absmax,
            codebook.to(x.device),
            bias,
            y,
            m,
            d_in,
            d_out,
            shift,
            codebook.numel(),
        ),
    )
    return launch, y


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


def _tree(codebook: Tensor, bits: int) -> Tensor:
    """The midpoints, padded with inf, as a search tree in breadth-first order: fp32 [2^bits].

    Node 1 is the root, node i has the children 2i and 2i + 1; node 0 is not used.
    """
    midpoints = torch.full((2**bits - 1,), torch.inf)
    midpoints[: codebook.numel() - 1] = midpoints_of(codebook.cpu())
    tree = torch.full((2**bits,), torch.inf)
    for level in range(bits):
        step = 2 ** (bits - level)
        tree[2**level : 2 ** (level + 1)] = midpoints[step // 2 - 1 :: step]
    return tree
