"""Every number that decides speed and not results, in one place. Kernels get them as macros.

"Resident" is how many thread blocks a multiprocessor must have registers for: more hide memory
latency better, too many make the compiler spill registers (a test says when).
"""

from __future__ import annotations

# Threads a block, and groups of 8 weights that a thread has in flight.
DEQUANTIZE_THREADS = 256
DEQUANTIZE_UNROLL = 4
DEQUANTIZE_RESIDENT = 4

# Eight weights a thread: blocks of up to QUANTIZE_THREADS * 8 weights are quantized in one pass.
QUANTIZE_THREADS = 512
QUANTIZE_RESIDENT = 2

MULTIPLY_THREADS = 256
MULTIPLY_RESIDENT = 3
MULTIPLY_RESIDENT_WIDE = 2  # with more than 8 rows of x

MACROS = {name: value for name, value in list(globals().items()) if name.isupper()}

# Thread blocks launched for each multiprocessor; they walk over the tensor together.
DEQUANTIZE_BLOCKS = 8
QUANTIZE_BLOCKS = 4

# Rows of x up to which the fused multiply is used; above, dequantize and cuBLAS.
MAX_FUSED_ROWS = 16


def multiply_tiles(rows: int, bits: int) -> tuple[int, int]:
    """(tiles of 8 rows of x, tiles of 16 rows of W) a warp of the fused multiply takes."""
    if rows <= 8:
        return 1, 1
    # With twice the x to read, twice the rows of W share it. Above 4 bit that would spill.
    return 2, 2 if bits <= 4 else 1
