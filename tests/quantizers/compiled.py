"""The instances that the suite compiles without a GPU, each once, whoever looks at it."""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import torch

from quantizers.kernels import build, tuning
from quantizers.kernels.build import Instance

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120")
READ = "sm_90"  # the architecture whose machine code is read
DTYPES = (torch.float16, torch.bfloat16, torch.float32)

INSTANCES = {
    "logprob": [Instance("logprob", (dtype,)) for dtype in DTYPES],
    "dequantize": [
        Instance("dequantize", (bits, dtype, fast))
        for bits in range(2, 16)
        for dtype in DTYPES
        for fast in ((True, False) if bits <= 8 else (False,))
    ],
    "quantize": [
        Instance("quantize", (bits, dtype, one_pass))
        for bits in range(2, 16)
        for dtype in DTYPES
        for one_pass in ((True, False) if bits <= 8 else (False,))
    ],
    "gemv": [Instance("gemv", (bits, dtype)) for bits in range(2, 9) for dtype in DTYPES[:2]],
    "multiply": [
        Instance("multiply", (bits, dtype, tiles, tuning.multiply_chunks(bits), fine))
        for bits in range(2, 9)
        for dtype in DTYPES[:2]
        for tiles in (1, 2)
        for fine in (False, True)
    ]
    + [
        Instance("multiply", (bits, DTYPES[0], 4, tuning.multiply_chunks(bits), False))
        for bits in (2, 3, 4, 8)
    ],
    "round_rows": [
        Instance("round_rows", (dtype, vectors))
        for dtype in DTYPES
        for vectors in tuning.ROUND_VECTORS
    ],
    "integer_product": [
        Instance("integer_product", (bits, scales, *tile))
        for bits in (4, 8)
        for scales in (0, 1, 2)
        for tile in tuning.INTEGER_TILES
    ],
    "scale_sums": [Instance("scale_sums", (dtype,)) for dtype in DTYPES],
}


def multiply(bits: int, x_tiles: int) -> Instance:
    chunks = tuning.multiply_chunks(bits)
    return Instance("multiply", (bits, torch.float16, x_tiles, chunks, False))


def integer_product(bits: int, scales: int, tile: tuple[int, int]) -> Instance:
    return Instance("integer_product", (bits, scales, *tile))


# Whose machine code is read.
READ_INSTANCES = {
    "logprob": INSTANCES["logprob"],
    "dequantize": [Instance("dequantize", (bits, torch.float16, True)) for bits in range(2, 9)],
    "quantize": [
        Instance("quantize", (bits, dtype, True)) for bits in range(2, 9) for dtype in DTYPES[:2]
    ],
    "gemv": [Instance("gemv", (bits, torch.float16)) for bits in range(2, 9)],
    "multiply": [multiply(bits, x_tiles) for bits in range(2, 9) for x_tiles in (1, 2)]
    + [multiply(bits, 4) for bits in (4, 8)],
    "round_rows": [Instance("round_rows", (torch.float16, 2))],
    "integer_product": [
        integer_product(bits, scales, tile)
        for bits, scales in ((4, 0), (4, 1), (8, 0))
        for tile in ((32, 8), (128, 128))
    ],
    "scale_sums": INSTANCES["scale_sums"][:1],
}


def instances_for(family: str, arch: str) -> list[Instance]:
    """What the quick suite compiles for an architecture: what is read for READ, and of the rest a
    part for each of the others: compiling is most of what these tests take, and an instance differs
    little by architecture. A slow test has every pair."""
    if arch == READ:
        return READ_INSTANCES[family]
    rest = [i for i in INSTANCES[family] if i not in READ_INSTANCES[family] and _has_its_turn(i)]
    others = [other for other in ARCHITECTURES if other != READ]
    return rest[others.index(arch) :: len(others)] or INSTANCES[family][:1]


def _has_its_turn(instance: Instance) -> bool:
    """Of the types that a width of codes is compiled for, the quick suite takes one, by turns."""
    if instance.family not in ("dequantize", "quantize", "gemv", "multiply"):
        return True
    bits, dtype = instance.parameters[:2]
    types = DTYPES if instance.family in ("dequantize", "quantize") else DTYPES[:2]
    return types.index(dtype) == bits % len(types) or instance.parameters[2:3] == (4,)


@cache
def report(family: str, arch: str) -> tuple[dict[Instance, build.Binary], str]:
    """Binaries of a family's instances for an architecture, and what ptxas says about them."""
    return build.compile_instances(instances_for(family, arch), arch)


@cache
def _disassembled(family: str, folder: Path) -> dict[str, list[str]]:
    """Symbol -> lines, of the family's instances that are read."""
    nvidia = pytest.importorskip("nvidia", reason="needs nvdisasm")
    found = [path for base in nvidia.__path__ for path in Path(base).glob("*/bin/nvdisasm")]
    if not found:
        pytest.skip("needs nvdisasm (pip install nvidia-cuda-nvdisasm)")
    binaries, _ = report(family, READ)
    file = folder / f"{family}.cubin"
    file.write_bytes(next(iter(binaries.values())).code)  # all are in one
    done = subprocess.run(
        [found[0], "-c", file], capture_output=True, text=True, check=True, timeout=60
    )
    parts = re.split(r"^\s*\.section\s+\.text\.(\w+),.*$", done.stdout, flags=re.MULTILINE)
    return {
        symbol: text.splitlines() for symbol, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def disassemble(instance: Instance, folder: Path) -> list[str]:
    """Lines of an instance's machine code for READ; `folder` holds what was compiled."""
    binaries, _ = report(instance.family, READ)
    return _disassembled(instance.family, folder)[binaries[instance].symbol]
