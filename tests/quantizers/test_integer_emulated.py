"""The CUDA kernels of integer products, run on the CPU thread by thread: see test_cuda_emulated."""

import shutil

import pytest
import torch

from quantizers.integers import Codes, IntegerWeight, PackedIntegers
from quantizers.kernels import integer_launches, launches, reference
from quantizers.kernels.build import Instance
from quantizers.kernels.tuning import INTEGER_TILES
from quantizers.packing import pack
from tests.quantizers.cuda_on_cpu.run import Emulator

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

HALF, BF16, FULL = torch.float16, torch.bfloat16, torch.float32
LIMITS = launches.Limits(2, 101_376, 512, byte_tables=False)  # of the smallest device
G = torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def rounder(tmp_path_factory):
    instances = [
        Instance("round_rows", case) for case in ((HALF, 2), (BF16, 2), (FULL, 2), (HALF, 4))
    ]
    return Emulator(instances, tmp_path_factory.mktemp("round"))


@pytest.fixture(scope="module")
def multiplier(tmp_path_factory):
    instances = [
        Instance("integer_product", (bits, scales, *tile))
        for bits in (4, 8)
        for scales in (0, 1, 2)
        for tile in INTEGER_TILES
    ]
    return Emulator(instances, tmp_path_factory.mktemp("integer"))


@pytest.mark.parametrize("dtype", [HALF, BF16, FULL], ids=str)
@pytest.mark.parametrize("limit", [127, 7])
def test_rows_are_rounded_as_plain_torch_does(rounder, dtype, limit):
    x = torch.randn(9, 392, generator=G).mul(torch.logspace(-4, 4, 9)[:, None]).to(dtype)
    x[1], x[2, 5], x[3, 391], x[4, 0] = 0, torch.nan, torch.inf, -torch.inf
    x[5, :3] = torch.tensor([0.5, 1.5, -2.5]) * x[5].abs().amax() / limit
    for fixed in (None, torch.tensor([0.0078125 * 3])):
        launch, codes = integer_launches.round_rows(x, limit, fixed)
        codes.values.fill_(99), codes.scale.fill_(99)
        rounder.run(launch)
        expected = reference.round_rows(x, limit, fixed)
        assert torch.equal(codes.values, expected.values)
        assert torch.equal(codes.scale.view(torch.int32), expected.scale.view(torch.int32))


def test_rows_of_several_vectors_a_thread(rounder):
    x = torch.randn(2, 8000, generator=G).half()
    launch, codes = integer_launches.round_rows(x, 127, None)
    assert launch.instance.parameters == (HALF, 4)
    rounder.run(launch)
    assert torch.equal(codes.values, reference.round_rows(x, 127, None).values)


def test_rows_that_the_kernel_does_not_cover():
    for x in (
        torch.ones(2, 12).half(),
        torch.ones(2, 2**16).half(),
        torch.ones(0, 8),
        torch.ones(1, 8).double(),
    ):
        assert integer_launches.round_rows(x, 127, None) is None


def operands(bits, tokens, d_out, d_in, group):
    """Scales are powers of two: then sums in any order have the same bits."""
    groups = -(-d_in // group)
    x = Codes(
        torch.randint(-127, 128, (tokens, d_in), generator=G, dtype=torch.int8),
        torch.exp2(torch.randint(-9, 3, (tokens, 1), generator=G).float()),
        127,
    )
    scales = torch.exp2(torch.randint(-4, 2, (d_out, groups), generator=G).float())
    if bits == 8:
        values = torch.randint(-127, 128, (d_out, d_in), generator=G, dtype=torch.int8)
        return x, IntegerWeight(values, scales, group, 127)
    table = torch.randint(-127, 128, (16,), generator=G, dtype=torch.int8)
    words = pack(torch.randint(0, 16, (d_out * d_in,), generator=G), 4)
    return x, PackedIntegers(words, table, scales, group, 127)


def int64_product(x, w):
    """In integers and fp64, rounded to fp32 once."""
    w = w.unpacked() if isinstance(w, PackedIntegers) else w
    result = 0
    for i, begin in enumerate(range(0, w.shape[1], w.group)):
        part = slice(begin, begin + w.group)
        sums = x.values[:, part].long() @ w.values[:, part].long().T
        result = result + sums.double() * w.scales[:, i].double()
    return result * x.scale.double()


def run(multiplier, x, w, bias=None, dtype=FULL):
    launch, y = integer_launches.integer_product(x, w, bias, dtype, LIMITS)
    y.view(torch.uint8).fill_(0xA5)
    multiplier.run(launch)
    return y


# Rows and columns: less than a tile and a share, tiles and groups that end within.
@pytest.mark.parametrize(("d_out", "d_in"), [(3, 64), (37, 320), (130, 576)])
@pytest.mark.parametrize("group", [32, 64, 256, None], ids=str)
@pytest.mark.parametrize("tokens", [1, 11, 50, 129])
@pytest.mark.parametrize("bits", [4, 8])
def test_products_are_those_of_int64(multiplier, bits, tokens, group, d_out, d_in):
    if tokens == 129 and d_out == 130 and group != 64:
        d_in = 128  # the emulator takes its time
    x, w = operands(bits, tokens, d_out, d_in, group or d_in)
    assert torch.equal(run(multiplier, x, w).double(), int64_product(x, w))


def test_golden_product(multiplier):
    """By hand: x = -32 .. 31 sums to -32, its even places to -32, its odd ones to 0."""
    x = Codes(torch.arange(-32, 32, dtype=torch.int8)[None], torch.tensor([[0.5]]), 127)
    table = torch.tensor([-7, 3, 5, *range(13)], dtype=torch.int8)
    codes = torch.tensor([[1] * 64, [1, 2] * 32, [0] * 32 + [2] * 32])
    w = PackedIntegers(pack(codes.flatten(), 4), table, torch.tensor([[1.0], [2.0], [4.0]]), 64, 7)
    whole = IntegerWeight(w.unpacked().values, w.scales, 64, 7)
    # .5 (3 x -32), .5 x 2 (3 x -32 + 5 x 0), .5 x 4 (-7 x -528 + 5 x 496)
    for weights in (w, whole):
        assert run(multiplier, x, weights).tolist() == [[-48.0, -96.0, 12352.0]]


def test_the_largest_sums_are_exact(multiplier):
    x, w = operands(8, 2, 5, 4096, 4096)
    x.values.fill_(127), w.values.fill_(-127), w.scales.fill_(1), x.scale.fill_(1)
    x.values[1, 77] = 126
    exact = x.values.long() @ w.values.long().T  # beyond 2^24: odd ones are rounded once
    assert torch.equal(run(multiplier, x, w), exact.float())


@pytest.mark.parametrize("dtype", [HALF, BF16, FULL], ids=str)
def test_scales_bias_and_rounding_are_those_of_plain_torch(multiplier, dtype):
    x, w = operands(8, 5, 37, 192, 192)
    x.scale.uniform_(0.001, 0.01), w.scales.uniform_(0.001, 0.01)
    bias = torch.randn(37, generator=G)
    sums = (x.values.long() @ w.values.long().T).float()
    expected = (sums * w.scales.T * x.scale + bias).to(dtype)
    assert torch.equal(run(multiplier, x, w, bias, dtype), expected)


@pytest.fixture(scope="module")
def scaler(tmp_path_factory):
    instances = [Instance("scale_sums", (dtype,)) for dtype in (HALF, BF16, FULL)]
    return Emulator(instances, tmp_path_factory.mktemp("scale"))


@pytest.mark.parametrize("dtype", [HALF, BF16, FULL], ids=str)
def test_sums_of_a_library_are_scaled_as_plain_torch_does(scaler, dtype):
    x, w = operands(8, 5, 1100, 64, 64)
    x.scale.uniform_(0.001, 0.01), w.scales.uniform_(0.001, 0.01)
    sums = torch.randint(-(2**30), 2**30, (5, 1100), generator=G, dtype=torch.int32)
    for bias in (None, torch.randn(1100, generator=G)):
        launch, y = integer_launches.scale_sums(sums, x, w, bias, dtype)
        scaler.run(launch)
        expected = sums.float() * w.scales.T * x.scale
        assert torch.equal(y, (expected if bias is None else expected + bias).to(dtype))


@pytest.mark.parametrize("change", [{"d_in": 96}, {"group": 16}, {"group": 48}], ids=str)
def test_products_the_kernel_does_not_cover(change):
    case = {"d_in": 192, "group": 64} | change
    x, w = operands(8, 2, 8, case["d_in"], case["group"])
    assert integer_launches.integer_product(x, w, None, HALF, LIMITS) is None
