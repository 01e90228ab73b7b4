"""The machine code of the CUDA kernels: wide loads and stores, and how much work a weight costs.

Static counts bound what a memory-bound kernel may cost; they say nothing about time.
"""

import re
import subprocess
from pathlib import Path

import pytest
import torch

from quantizers.kernels import build, tuning

nvidia = pytest.importorskip("nvidia", reason="needs NVRTC and nvdisasm")
DISASSEMBLER = [path for base in nvidia.__path__ for path in Path(base).glob("*/bin/nvdisasm")]
if not DISASSEMBLER:
    pytest.skip("needs nvdisasm (pip install nvidia-cuda-nvdisasm)", allow_module_level=True)

INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\d+ )?([A-Z0-9_.]+)(.*)")


def disassemble(family, name, folder):
    [binary] = build.compile_instances(family, (name,), "sm_90")[0].values()
    file = folder / "kernel.cubin"
    file.write_bytes(binary.code)
    done = subprocess.run(
        [DISASSEMBLER[0], "-c", file], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.splitlines()


def longest_loop(lines):
    """Instructions of the longest body that a branch leads back to."""
    labels, instructions, best = {}, [], []
    for line in lines:
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        if found := INSTRUCTION.search(line):
            instructions.append(found[1])
            target = re.search(r"\((\.L_x_\d+)\)", found[2])
            if found[1].startswith("BRA") and target and target[1] in labels:
                best = max(best, instructions[labels[target[1]] :], key=len)
    return best


@pytest.mark.parametrize("bits", range(2, 9))
def test_dequantize_stores_16_bytes_and_costs_little(bits, tmp_path):
    name = build.dequantize_name(bits, torch.float16, True)
    loop = longest_loop(disassemble("dequantize", name, tmp_path))
    assert loop.count("STG.E.128") >= tuning.DEQUANTIZE_UNROLL
    # With and without means, and the careful path, all counted: an H100 at its copy's bandwidth
    # has time for about 28 instructions a weight.
    assert len(loop) / (8 * tuning.DEQUANTIZE_UNROLL) <= 21


@pytest.mark.parametrize("bits", range(2, 9))
def test_multiply_reads_the_widest_words_its_codes_allow(bits, tmp_path):
    name = build.multiply_name(bits, torch.float16, tuning.multiply_tiles(1, bits))
    loop = longest_loop(disassemble("multiply", name, tmp_path))
    wide = sum(op.startswith("LDG.E.128") for op in loop)
    x_loads, code_loads = 4, 2 * bits // 4
    assert wide == x_loads + (code_loads if bits % 4 == 0 else 0)
    if bits % 4 == 2:
        assert sum(op.startswith("LDG.E.64") for op in loop) == bits
    assert sum(op.startswith("HMMA.16816.F32") for op in loop) == 8
    assert len(loop) / 64 <= (5 if bits <= 4 else 7.5)  # instructions a weight
