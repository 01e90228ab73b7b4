"""Every number that decides speed and not results, in one place. Kernels get them as macros.

"Resident" is how many thread blocks a multiprocessor must have registers for: more hide memory
latency better, too many make the compiler spill registers (a test says when).
"""

from __future__ import annotations

# Threads a block, and groups of 8 weights that a thread has in flight.
DEQUANTIZE_THREADS = 256
DEQUANTIZE_UNROLL = 2
DEQUANTIZE_RESIDENT = 8

# Eight weights a thread: blocks of up to QUANTIZE_THREADS * 8 weights are quantized in one pass.
QUANTIZE_THREADS = 512
QUANTIZE_RESIDENT = 3  # for fp32 weights, above 8 bit, and for blocks of any size, one less

# The products with packed weights fill a table once a block: one block a multiprocessor.
MULTIPLY_THREADS = 512

# Log-probabilities: a block a row of logits.
LOGPROB_THREADS = 256
LOGPROB_RESIDENT = 4

# Activations to int8: a block a row.
ROUND_THREADS = 256

# Four sums a thread.
SCALE_THREADS = 256

# Integer products: warps share a tile or its columns; slots of the ring through shared memory.
INTEGER_THREADS = 256
INTEGER_SLOTS = 4

_MACROS = {name: value for name, value in list(globals().items()) if name.isupper()}

# Vectors of 16 bytes of a row that a thread rounds: the fewest that hold the row.
ROUND_VECTORS = (2, 4, 8, 16)

# Thread blocks launched for each multiprocessor; they walk over the tensor together.
QUANTIZE_BLOCKS = 12


def gemv_threads(arch: str) -> int:
    """Most threads of a gemv's block: 1024 leave 64 registers each, enough on Hopper only."""
    return 1024 if arch == "sm_90" else 512


def byte_tables(arch: str) -> bool:
    """Whether the products with packed weights look whole bytes up, in tables of 64 KiB: where a
    block may have 160 KiB of shared memory, twice its table and what else it needs."""
    return arch in ("sm_80", "sm_87", "sm_90", "sm_100", "sm_103", "sm_110")


def macros(arch: str) -> dict[str, int]:
    """What the kernels' source is compiled with for an architecture."""
    return {**_MACROS, "GEMV_THREADS": gemv_threads(arch), "BYTE_TABLES": int(byte_tables(arch))}


# Rows of x that the fused multiply takes at once where nothing was measured (see measured.py), and
# the most that it could: 32 at once, by half as many threads with twice the registers, cost fewer
# instructions a weight than twice 16 (4 bit: 4.3 against 7.6).
MULTIPLY_ROWS = 16
MOST_MULTIPLY_ROWS = 32


def multiply_threads(x_tiles: int) -> int:
    """Most threads of a block, as the kernel has it."""
    return MULTIPLY_THREADS // 2 if x_tiles > 2 else MULTIPLY_THREADS


# A 16-bit matrix of so many weights is still in an L2 cache when cuBLAS comes to read it.
CACHED_WEIGHTS = 2**24


def most_fused_rows(bits: int, weights: int) -> int:
    """Rows of x up to which fused multiplies, 16 rows each, are faster than dequantize and cuBLAS:
    a little less than on an H100, since an H200 dequantizes faster (benchmarks/kernels.py)."""
    return 48 if bits <= 4 and weights > CACHED_WEIGHTS else 32


def multiply_chunks(bits: int) -> int:
    """Chunks of 128 columns that a warp of the fused multiply takes: what shared memory holds."""
    return 2 if bits <= 4 else 1


# Tiles of the integer products, (rows of W, rows of x), from few rows of x to many.
INTEGER_TILES = ((32, 8), (32, 16), (64, 64), (128, 128))


# Rows of x from which cuBLASLt's int8 product, and a pass over its sums, take the place of ours,
# where nothing was measured (see measured.py). The field's figures have products like ours fall
# behind the library between 64 and 256 rows.
LIBRARY_TOKENS = 256


def integer_tile(tokens: int) -> tuple[int, int]:
    """The smallest tile that holds the rows of x, else the largest."""
    return next((tile for tile in INTEGER_TILES if tokens <= tile[1]), INTEGER_TILES[-1])
