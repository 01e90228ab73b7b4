"""The CUDA kernels' own source, run on the CPU thread by thread, against the plain-torch reference.

What a machine without a GPU can check: bit offsets, funnel shifts over word ends, short last
groups, warps and blocks, shared memory and barriers, the tensor-core layout, the launch arguments,
reads and writes beyond the end, races that show when threads run in another order or copies arrive
early or late. What it cannot: other races, and the hardware's own arithmetic.
"""

import shutil
from dataclasses import replace

import pytest
import torch

from quantizers.blockwise import dequantize, quantize
from quantizers.codebooks import codebook, integer
from quantizers.granularity import Granularity
from quantizers.kernels import launches, reference
from quantizers.kernels.build import Instance
from quantizers.kernels.tuning import (
    DEQUANTIZE_THREADS,
    DEQUANTIZE_UNROLL,
    QUANTIZE_THREADS,
    multiply_chunks,
)
from quantizers.packed import PackedTensor, empty
from tests.quantizers.cuda_on_cpu.run import Emulator

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

HALF, BF16, FULL = torch.float16, torch.bfloat16, torch.float32
SIZES = (1, 31, 32, 33, 63, 64, 65, 1000, 8 * QUANTIZE_THREADS + 257)
# Of the dequantizer also two tiles that nothing ends in, and a third.
DEQUANTIZED_SIZES = (*SIZES, 2 * 8 * DEQUANTIZE_THREADS * DEQUANTIZE_UNROLL + 9)
# (bits, type, block): every width on the fast path and on the generic one, every type on both.
CASES = [(k, (HALF, BF16, FULL)[k % 3], block) for k in range(2, 9) for block in (64, 7)]
CASES += [(3, HALF, 16), (5, HALF, 4096), (8, FULL, 10**9), (6, BF16, 1), (7, HALF, 100)]
CASES += [(9, HALF, 64), (12, BF16, 33), (15, FULL, 64)]
ONE_PASS = [(k, (HALF, BF16, FULL)[k % 3]) for k in range(2, 9)]
LIMITS = launches.Limits(2, 232_448, 1024, byte_tables=True)
IDENTITY_BLOCKS = (16, 64, 4096, 32, 128)
ROWS_AND_COLUMNS = [(1, 128), (5, 256), (16, 128), (17, 384), (40, 1280)]


def poisoned(tensor):
    """Filled with a value no kernel writes: what it leaves out shows."""
    return tensor.view(torch.uint8).fill_(0xA5) is None or tensor


@pytest.fixture(scope="module")
def dequantizer(tmp_path_factory):
    fast = {(k, dtype, k <= 8 and block not in (7, 1, 100, 33)) for k, dtype, block in CASES}
    # A tensor of one block takes the fast path whatever its block size.
    fast |= {(k, dtype, True) for k, dtype, _ in CASES if k <= 8}
    return Emulator(
        [Instance("dequantize", case) for case in fast], tmp_path_factory.mktemp("dequantize")
    )


@pytest.fixture(scope="module")
def quantizer(tmp_path_factory):
    instances = {Instance("quantize", (k, dtype, False)) for k, dtype, _ in CASES}
    instances |= {Instance("quantize", (k, dtype, True)) for k, dtype in ONE_PASS}
    return Emulator(list(instances), tmp_path_factory.mktemp("quantize"))


@pytest.fixture(scope="module")
def multiplier(tmp_path_factory):
    kinds = [(k, HALF, 1, False) for k in range(2, 9)]
    kinds += [(k, HALF, 1, True) for k in range(2, 9) if IDENTITY_BLOCKS[k % 5] < 64]
    kinds += [(k, BF16, 2, True) for k in (2, 3, 4, 7, 8)] + [(k, BF16, 2, False) for k in (3, 8)]
    kinds += [(k, HALF, 4, False) for k in (3, 4, 8)]
    instances = [
        Instance("multiply", (k, dtype, x_tiles, multiply_chunks(k), fine))
        for k, dtype, x_tiles, fine in kinds
    ]
    return Emulator(instances, tmp_path_factory.mktemp("multiply"))


@pytest.fixture(scope="module")
def gemv(tmp_path_factory):
    instances = [Instance("gemv", (k, t)) for k in range(2, 9) for t in (HALF, BF16)]
    return Emulator(instances, tmp_path_factory.mktemp("gemv"))


def weights_of(n, dtype, seed=0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)).mul(0.05).to(dtype)


def same_bits(a, b):
    return a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def case_id(case):
    return f"{case[0]}bit-{str(case[1]).removeprefix('torch.')}-B{case[2]}"


def check_dequantize(dequantizer, q):
    launch, out = launches.dequantize(q)
    poisoned(out)
    dequantizer.run(launch)
    assert same_bits(out, reference.dequantize(q)), q.shape


def check_quantize(quantizer, values, q):
    """q: the values' packed form, of the plain path."""
    expected = q.words.clone()
    launch = launches.quantize(values, q, processors=1)
    poisoned(q.words)
    quantizer.run(launch)
    assert torch.equal(q.words, expected), q.shape


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("size", [None, 7, 64, 100, 1000])
@pytest.mark.parametrize(("bits", "dtype"), [(2, FULL), (3, HALF), (7, BF16), (9, HALF)])
def test_blocks_that_do_not_cross_rows(dequantizer, quantizer, bits, dtype, size, centered):
    """Rows that end within groups of 8 weights, warps and tiles; some shorter than a group."""
    for shape in ((3, 130), (700, 13), (1, 5), (2, 4096), (5, 100)):
        values = weights_of(shape[0] * shape[1], dtype)
        blocks = Granularity(size, by_row=True)
        q = quantize(values.view(shape), codebook("int", bits), bits, blocks, centered)
        check_dequantize(dequantizer, q)
        check_quantize(quantizer, values, q)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_dequantize(dequantizer, case):
    bits, dtype, block = case
    for n in DEQUANTIZED_SIZES:
        for centered in (False, True):
            table = codebook("dynamic" if bits % 2 else "int", bits)
            q = quantize(weights_of(n, dtype, n), table, bits, Granularity(block), centered)
            check_dequantize(dequantizer, q)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_quantize(quantizer, case):
    bits, dtype, block = case
    for n in SIZES:
        for centered in (False, True):
            table = codebook("dynamic" if bits % 2 else "int", bits)
            values = weights_of(n, dtype, n)
            values[: n // 3] = 0  # also blocks of zeros
            q = quantize(values, table, bits, Granularity(block), centered)
            check_quantize(quantizer, values, q)


@pytest.mark.parametrize("block", [16, 32, 64, 256, 512, 1024, 4096])
@pytest.mark.parametrize(("bits", "dtype"), ONE_PASS)
def test_quantize_in_one_pass(quantizer, block, bits, dtype):
    table = codebook("float", bits)
    for n in (1, 15, 33, 64, 65, 1000, 8 * QUANTIZE_THREADS + 257, 16 * QUANTIZE_THREADS):
        values = weights_of(n, dtype, n)
        values[n // 4 : n // 2] = 0
        q = empty(values, table, bits, Granularity(block))
        launch, problem = launches.quantize_blocks(values, q, processors=1)
        poisoned(q.words), poisoned(q.absmax)
        quantizer.run(launch)
        expected = quantize(values, table, bits, Granularity(block))
        assert same_bits(q.absmax, expected.absmax), n
        assert torch.equal(q.words, expected.words), n
        assert int(problem) == 0


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 65520.0, -1e30])
def test_one_pass_reports_weights_that_cannot_be_quantized(quantizer, bad):
    values = weights_of(5000, FULL)
    values[4999] = bad
    q = empty(values, integer(5), 5, Granularity(64))
    launch, problem = launches.quantize_blocks(values, q, processors=1)
    quantizer.run(launch)
    assert int(problem) != 0


def test_one_pass_leaves_other_blocks_to_the_slower_path():
    values = weights_of(10_000, HALF).view(100, 100)
    for bits, blocks in [
        (4, Granularity(8)),
        (4, Granularity(48)),
        (4, Granularity(8192)),
        (9, Granularity(64)),
        (4, Granularity(64, by_row=True)),  # a short block in each row
        (4, Granularity(by_row=True)),
    ]:
        q = empty(values, integer(bits), bits, blocks)
        assert launches.quantize_blocks(values.flatten(), q, 1) is None
    q = empty(values, integer(4), 4, Granularity(64), centered=True)
    assert launches.quantize_blocks(values.flatten(), q, 1) is None


def product_case(bits, dtype, d_out, d_in, block, m):
    weights = weights_of(d_out * d_in, dtype).view(d_out, d_in)
    q = quantize(weights, integer(bits), bits, Granularity(block))
    x = torch.randn(m, d_in, generator=torch.Generator().manual_seed(m)).to(dtype)
    return q, x


def run_product(multiplier, q, x, bias=None, limits=LIMITS):
    launch, y = launches.multiply(x, q, bias, limits)
    poisoned(y)
    multiplier.run(launch)
    return y


@pytest.mark.parametrize(("d_out", "d_in"), ROWS_AND_COLUMNS)
@pytest.mark.parametrize("bits", range(2, 9))
def test_product_with_the_identity_is_the_dequantized_matrix(multiplier, bits, d_out, d_in):
    """As long as every slot of the tensor-core product gets the right row and column."""
    q, _ = product_case(bits, HALF, d_out, d_in, IDENTITY_BLOCKS[bits % 5], 1)
    eye = torch.eye(d_in, dtype=HALF)
    expected = reference.fused_weights(q).T
    for start in range(0, d_in, 104 if d_in > 384 else 8):  # of many columns, some of each segment
        y = run_product(multiplier, q, eye[start : start + 8])
        assert torch.equal(y, expected[start : start + 8])


def run_gemv(gemv, q, x, bias=None, limits=LIMITS):
    launch, y = launches.gemv(x, q, bias, limits)
    poisoned(y)
    gemv.run(launch)
    return y


# Columns: less than a segment, a part of a second one, a segment a warp; rows: fewer than there are
# groups of warps, and batches of 32 rows that end within.
@pytest.mark.parametrize(
    ("d_out", "d_in", "block"),
    [(3, 128, 32), (67, 1152, 64), (67, 1152, 4096), (67, 1152, 10**9)]
    + [(150, 16384, 64), (2100, 256, 32)],
)
@pytest.mark.parametrize("bits", range(2, 9))
def test_gemv_with_the_identity_is_the_dequantized_matrix(gemv, bits, block, d_out, d_in):
    q, _ = product_case(bits, HALF, d_out, d_in, block, 1)
    for column in (0, d_in // 2 + 17, d_in - 1):
        x = torch.zeros(1, d_in).half()
        x[0, column] = 1
        assert torch.equal(run_gemv(gemv, q, x)[0], dequantize(q)[:, column])


@pytest.mark.parametrize("dtype", [HALF, BF16], ids=str)
@pytest.mark.parametrize("bits", range(2, 9))
def test_gemv(gemv, bits, dtype):
    q, x = product_case(bits, dtype, 70, 2176, 64, 1)
    bias = torch.randn(70).to(dtype)
    exact = x.double() @ dequantize(q).double().T + bias.double()
    y = run_gemv(gemv, q, x, bias)
    assert (y - exact).norm() <= (2e-3 if dtype == HALF else 1.1e-2) * exact.norm()


@pytest.fixture(scope="module")
def with_little_shared_memory(tmp_path_factory):
    folder, widths = tmp_path_factory.mktemp("little"), (2, 4, 8)
    multiply = [Instance("multiply", (k, HALF, 2, multiply_chunks(k), False)) for k in widths]
    gemv = [Instance("gemv", (k, HALF)) for k in widths]
    return Emulator(multiply, folder, "sm_120"), Emulator(gemv, folder, "sm_120")


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_products_on_devices_with_little_shared_memory(with_little_shared_memory, bits):
    """GeForce and RTX have 99 KiB a block: tables of pairs or single codes instead of bytes."""
    limits = launches.Limits(2, 101_376, 512, byte_tables=False)
    q, x = product_case(bits, HALF, 70, 4224, 64, 16)
    multiplier, gemv = with_little_shared_memory
    exact = x.double() @ dequantize(q).double().T
    y = run_product(multiplier, q, x, limits=limits)
    assert (y - exact).norm() <= 2e-3 * exact.norm()
    y = run_gemv(gemv, q, x[:1], limits=limits)
    assert (y - exact[:1]).norm() <= 2e-3 * exact[:1].norm()


@pytest.mark.parametrize("m", [9, 16])
@pytest.mark.parametrize("bits", [2, 3, 4, 7, 8])
def test_wide_product_with_the_identity(multiplier, bits, m):
    q, _ = product_case(bits, BF16, 50, 128, 32, 1)
    for start in range(0, 128 - m, m):
        rows = torch.eye(128, dtype=BF16)[start : start + m]
        assert torch.equal(
            run_product(multiplier, q, rows), reference.fused_weights(q).T[start : start + m]
        )


@pytest.mark.parametrize("m", [17, 32])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_32_rows_at_once_with_the_identity(multiplier, bits, m):
    q, _ = product_case(bits, HALF, 50, 256, 64, 1)
    rows = torch.eye(256, dtype=HALF)[100 : 100 + m]
    assert torch.equal(
        run_product(multiplier, q, rows), reference.fused_weights(q).T[100 : 100 + m]
    )


@pytest.mark.parametrize("bits", [3, 8])
def test_product_of_more_columns_than_a_block_takes_at_once(multiplier, bits):
    """And of more rows than it keeps the sums of: several passes over several portions of rows."""
    q, _ = product_case(bits, BF16, 550, 4224, 64, 1)
    columns = [0, 1, 127, 128, 2047, 2048, 4095, 4096, 4223]
    x = torch.nn.functional.one_hot(torch.tensor(columns), 4224).to(BF16)
    assert torch.equal(run_product(multiplier, q, x), reference.fused_weights(q)[:, columns].T)


@pytest.mark.parametrize("m", [1, 2, 7, 8])
@pytest.mark.parametrize("bits", range(2, 9))
def test_product(multiplier, bits, m):
    q, x = product_case(bits, HALF, 37, 1280, 64, m)
    bias = torch.randn(37).half()
    exact = x.double() @ dequantize(q).double().T + bias.double()
    y = run_product(multiplier, q, x, bias)
    assert (y - exact).norm() <= 2e-3 * exact.norm()


def test_product_of_a_view_that_begins_off_16_bytes(multiplier):
    q, x = product_case(4, HALF, 16, 128, 64, 2)
    shifted = torch.cat([torch.zeros(1, dtype=HALF), x.flatten()])[1:].view(2, 128)
    assert shifted.data_ptr() % 16
    assert torch.equal(run_product(multiplier, q, shifted), run_product(multiplier, q, x))


@pytest.mark.parametrize(
    "change",
    [{"d_in": 192}, {"m": 33}, {"block": 48}, {"block": 8}, {"bits": 9}, {"x": FULL}],
    ids=str,
)
def test_products_the_kernel_does_not_cover(change):
    case = {"d_in": 256, "m": 4, "block": 64, "bits": 4, "x": HALF, **change}
    q, x = product_case(case["bits"], HALF, 16, case["d_in"], case["block"], case["m"])
    assert launches.multiply(x.to(case["x"]), q, None, LIMITS) is None


def test_products_leave_blocks_that_end_with_a_row_to_the_slower_path():
    w = weights_of(16 * 384, HALF).view(16, 384)
    for size, by_row in [(256, True), (None, True), (64, True), (64, False)]:
        q = quantize(w, integer(4), 4, Granularity(size, by_row))
        planned = launches.multiply(torch.ones(2, 384).half(), q, None, LIMITS)
        assert (planned is None) == (size != 64)  # a row is no power of two here


def test_an_index_beyond_the_codebook_is_nan(dequantizer, multiplier):
    words = torch.full((64,), -1, dtype=torch.int32)  # 4-bit int has 15 values
    absmax = torch.ones(8).half()
    shape, blocks = torch.Size((4, 128)), Granularity(64)
    q = PackedTensor(words, absmax, None, integer(4), 4, blocks, shape, HALF)
    launch, out = launches.dequantize(replace(q, dtype=BF16))
    dequantizer.run(launch)
    assert out.isnan().all()
    launch, y = launches.multiply(torch.ones(1, 128).half(), q, None, LIMITS)
    multiplier.run(launch)
    assert y.isnan().all()
