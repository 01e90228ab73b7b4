"""The machine code of the CUDA kernels: no local memory, registers for enough threads, wide loads
and stores, and how much work a weight costs.

Static counts bound what a memory-bound kernel may cost; they say nothing about time.
"""

import re

import pytest
import torch

from quantizers.kernels import build, tuning
from quantizers.kernels.build import Instance
from tests.quantizers.compiled import (
    ARCHITECTURES,
    INSTANCES,
    disassemble,
    instances_for,
    integer_product,
    multiply,
    report,
)

pytest.importorskip("cuda.bindings.nvrtc", reason="needs NVRTC's Python binding")
try:
    build.nvrtc_version()
except build.BuildError as error:
    pytest.skip(str(error), allow_module_level=True)

INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\d+ )?([A-Z0-9_.]+)(.*)")


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("family", INSTANCES)
def test_an_instance_compiles_without_local_memory(family, arch):
    check_report(*report(family, arch), instances_for(family, arch))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("family", INSTANCES)
def test_every_instance_compiles_for_every_architecture(family, arch):
    check_report(*build.compile_instances(INSTANCES[family], arch), INSTANCES[family])


def check_report(binaries, log, instances):
    assert set(binaries) == set(instances)
    assert len({binary.symbol for binary in binaries.values()}) == len(binaries)
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+)", log)
    assert len(frames) >= len(binaries)
    assert {frame for frame in frames} == {("0", "0", "0")}


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("family", INSTANCES)
def test_threads_fit_a_multiprocessor(family, arch):
    """65,536 registers for at least the two blocks that hide each other's barriers; the products,
    which take shared memory or registers for more work at a time, and rows held in registers have
    one."""
    name = {"round_rows": "ROUND", "integer_product": "INTEGER", "scale_sums": "SCALE"}.get(family)
    most = tuning.macros(arch)[f"{name or family.upper()}_THREADS"]
    blocks = 1 if family in ("gemv", "multiply", "integer_product", "round_rows") else 2
    _, log = report(family, arch)
    used = re.findall(r"entry function '(\w+)'.*?Used (\d+) registers", log, re.DOTALL)
    assert len(used) == len(instances_for(family, arch))
    for symbol, registers in used:
        threads = most
        if family == "multiply":  # more tiles of x at once: half the threads, twice the registers
            tiles = re.search(r"multiplyILi\d+E.*?Li(\d+)E", symbol)[1]
            threads = tuning.multiply_threads(int(tiles))
        assert 0 < blocks * threads * int(registers) <= 65536, symbol


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("machine code")


def instructions_of(lines):
    return [found[1] for line in lines if (found := INSTRUCTION.search(line))]


def loop_with(lines, what, times):
    """Instructions of the shortest loop in which an instruction occurs so often."""
    labels, instructions, loops = {}, [], []
    for line in lines:
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        if found := INSTRUCTION.search(line):
            instructions.append(found[1])
            target = re.search(r"\((\.L_x_\d+)\)", found[2])
            if found[1].startswith("BRA") and target and target[1] in labels:
                loops.append(instructions[labels[target[1]] :])
    found = [loop for loop in loops if sum(op.startswith(what) for op in loop) >= times]
    return min(found, key=len)


@pytest.mark.parametrize("bits", range(2, 9))
def test_dequantize_stores_16_bytes_and_costs_little(bits, folder):
    instance = Instance("dequantize", (bits, torch.float16, True))
    ops = instructions_of(disassemble(instance, folder))
    assert ops.count("STG.E.128") >= tuning.DEQUANTIZE_UNROLL
    # Four paths, of which a thread takes one: with and without means, whole tiles and others. An
    # H100 at its copy's bandwidth has time for about 28 instructions a weight.
    assert len(ops) / (8 * tuning.DEQUANTIZE_UNROLL) <= 50


def shortest_round(lines):
    """Instructions of the shortest way around the longest loop: the usual case, for most kernels,
    without what is skipped in it."""
    labels, instructions = {}, []
    for line in lines:
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        if found := INSTRUCTION.search(line):
            target = re.search(r"\((\.L_x_\d+)\)", found[2]) if found[1] == "BRA" else None
            always = target and not re.search(r"U?P\d", line.split("BRA")[0] + found[2])
            instructions.append((found[1], target and target[1], always))
    ends = [(labels[to], i) for i, (_, to, _) in enumerate(instructions) if to]
    start, end = max(ends, key=lambda ends: ends[1] - ends[0])
    ways, seen = [[start]], {start}
    for way in ways:  # breadth first
        if way[-1] == end:
            return [instructions[i][0] for i in way]
        _, to, always = instructions[way[-1]]
        following = ([labels[to]] if to else []) + ([] if always else [way[-1] + 1])
        for i in following:
            if start <= i <= end and i not in seen:
                seen.add(i)
                ways.append([*way, i])
    raise AssertionError("no way around the loop")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", range(2, 9))
def test_quantize_costs_little(bits, dtype, folder):
    lines = disassemble(Instance("quantize", (bits, dtype, True)), folder)
    loop = shortest_round(lines)  # the steps over threads that share a block come on top
    assert loop.count("LDG.E.128.CONSTANT") == 1
    assert sum(op.startswith("LDS") for op in loop) == (18 if bits in (5, 6, 7) else 16)
    assert loop.count("MUFU.RCP") == 1  # one a block, none for a quotient
    assert not loop.count("FCHK")
    assert len(loop) / 8 <= (24 if bits in (5, 6, 7) else 21)


@pytest.mark.parametrize("bits", range(2, 9))
def test_gemv_costs_little_more_than_a_look_up_and_a_product(bits, folder):
    loop = loop_with(disassemble(Instance("gemv", (bits, torch.float16)), folder), "FFMA", 128)
    assert sum(op.startswith("FFMA") for op in loop) == 4 * 32  # rows x columns of a lane
    wide = {2: "LDS.128", 3: "LDS.64", 4: "LDS.64"}.get(bits, "LDS")
    assert sum(op.startswith(wide) for op in loop) >= 4 * 32 // max(1, 8 // bits)
    most = {2: 2.5, 3: 3.7, 4: 3.1, 8: 4.4}.get(bits, 5.4)
    assert len(loop) / 128 <= most  # instructions a weight


@pytest.mark.parametrize("bits", [4, 8])
def test_32_rows_at_once_cost_fewer_instructions_than_twice_16(bits, folder):
    loops = []
    for x_tiles in (2, 4):
        chunks = tuning.multiply_chunks(bits)
        loop = loop_with(disassemble(multiply(bits, x_tiles), folder), "HMMA", 8)
        loops.append(len(loop) / (64 * chunks))  # instructions a weight
    assert loops[1] <= 0.75 * 2 * loops[0]


@pytest.mark.parametrize("x_tiles", [1, 2])
@pytest.mark.parametrize("bits", range(2, 9))
def test_multiply_scales_sums_and_not_weights(bits, x_tiles, folder):
    chunks = tuning.multiply_chunks(bits)
    loop = loop_with(disassemble(multiply(bits, x_tiles), folder), "HMMA", 8)
    assert sum(op.startswith("HMMA.16816.F32") for op in loop) == 8 * chunks * x_tiles
    assert sum(op.startswith(("FMUL", "F2F")) for op in loop) <= 4  # of a result, none a weight
    assert sum(op.startswith("LDGSTS") and op.endswith("128") for op in loop) >= chunks * bits // 2
    most = {2: 4.1, 3: 4.7, 4: 3.9, 8: 7.4}.get(bits, 8.9)
    assert len(loop) / (64 * chunks) <= most  # instructions a weight


# Instructions a weight that a lane holds, of the smallest tile: an H100 at its copy's bandwidth has
# time for about 4.8 at 4 bit, 2.4 at 8. And a tensor-core product of the largest one.
@pytest.mark.parametrize(
    ("bits", "scales", "a_weight", "a_product"),
    [(4, 0, 2.8, 6), (4, 1, 3.6, 13), (8, 0, 1.8, 6)],
)
def test_integer_product_costs_little(bits, scales, a_weight, a_product, folder):
    for tile, products in (((32, 8), 2), ((128, 128), 32)):
        lines = disassemble(integer_product(bits, scales, tile), folder)
        loop = loop_with(lines, "IMMA.16832.S8.S8", products)
        steps = sum(op.startswith("IMMA") for op in loop) // products  # unrolled
        assert sum(op.startswith("LDGSTS") and op.endswith("128") for op in loop) >= 2 * steps
        assert len(loop) <= steps * (32 * a_weight if products == 2 else products * a_product)


def test_round_rows_reads_16_bytes_at_a_time_once(folder):
    ops = instructions_of(disassemble(Instance("round_rows", (torch.float16, 2)), folder))
    assert ops.count("LDG.E.128.CONSTANT") == 2
    assert len(ops) / 16 <= 36  # a value, with divisions' rare cases


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_logprob_reads_16_bytes_at_a_time_and_costs_little(dtype, folder):
    lines = disassemble(Instance("logprob", (dtype,)), folder)
    logits = 2 * 16 // dtype.itemsize  # of two vectors
    loop = shortest_round(lines)  # no logit in it that beats the target
    assert loop.count("LDG.E.128.CONSTANT") == 2
    assert loop.count("MUFU.EX2") == logits + 2  # one a vector for sums so far
    assert len(loop) / logits <= 9
