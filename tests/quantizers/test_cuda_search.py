"""The CUDA quantizer's shortcuts are exact: its search of a codebook, and its division."""

import ctypes
import shutil

import numpy as np
import pytest
import torch

from quantizers.codebooks import dynamic, floating, integer, midpoints_of, quantile
from quantizers.granularity import Granularity
from quantizers.kernels import launches, reference
from quantizers.kernels.build import Instance
from quantizers.kernels.search import LEAST_EXACT, search_of
from quantizers.packed import empty
from tests.quantizers.cuda_on_cpu.run import Emulator, library_of

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

HALF, BF16, FULL = torch.float16, torch.bfloat16, torch.float32
CPU = torch.device("cpu")
TINY, LARGEST = 2.0**-149, float(torch.finfo(FULL).max)


def weights(n):
    return torch.randn(n, generator=torch.Generator().manual_seed(0))


def standard_tables(bits):
    yield integer(bits)
    yield floating(bits)
    yield dynamic(bits)
    yield quantile(bits, weights(20000))


def odd_tables(bits):
    """Legal ones that nobody would make: sorted, finite, fp32."""
    n = 2**bits
    near = torch.tensor([1.0, 1.0 + 2**-23, 1.0 + 2**-22, 1.0 + 2**-22])
    yield torch.zeros(1)
    yield torch.tensor([-1.0, 1.0])  # the midpoint is 0
    yield torch.tensor([-TINY, 0.0, TINY])  # midpoints 0 and -0
    yield near
    yield -near.flip(0)
    yield torch.cat([-near.flip(0), near])[:n]
    yield torch.tensor([-LARGEST, -1.0, LARGEST])
    yield torch.tensor([-LARGEST, -LARGEST, LARGEST, LARGEST])  # midpoints -inf, 0 and inf
    yield torch.tensor([65504.0, 70000.0, 1e30])
    yield torch.linspace(-1e-7, 1e-7, n)  # in one bucket
    yield torch.linspace(-3, 5, n)
    yield torch.cat([torch.linspace(-1, 1, n // 2), torch.linspace(0.7, 0.7001, n // 2)]).sort()[0]
    yield torch.linspace(1.0, 1.001, n)
    if bits > 2:
        yield floating(bits, bits - 1)


def trying(table):
    """fp32 numbers at and beside every midpoint and every fp16, and the ends of fp32."""
    fp16 = np.arange(2**16, dtype=np.uint16).view(np.float16)
    fp16 = fp16[np.isfinite(fp16)].astype(np.float32)
    ends = np.array([0, TINY, 2**-126, 2**-24, 2**-25, 1, 1.5, 2, 65504, 65520, LARGEST, np.inf])
    at = np.concatenate([midpoints_of(table).numpy(), fp16, ends, -ends]).astype(np.float32)
    return np.concatenate(
        [at, np.nextafter(at, np.float32(np.inf)), np.nextafter(at, np.float32(-np.inf))]
    )


def codes_of(search, x):
    """What the kernel does with x, fp32 [n]: a table and a binary search."""
    fp16 = x.astype(np.float16)
    away = np.abs(fp16.astype(np.float32)) > np.abs(x)
    keys = fp16.view(np.uint16).astype(np.int64) - away  # rounded toward zero
    code = search.first.numpy().astype(np.int64)[keys >> search.key_shift]
    step = search.widest
    while step >= 1:
        code += np.where(search.midpoints.numpy()[code + step - 1] < x, step, 0)
        step //= 2
    return code


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8, 9, 12, 15])
@pytest.mark.parametrize("tables", [standard_tables, odd_tables])
def test_the_search_is_exact(tables, bits):
    for table in tables(bits):
        x = trying(table)
        search = search_of(table, bits, CPU)
        expected = torch.searchsorted(midpoints_of(table), torch.from_numpy(x))
        assert np.array_equal(codes_of(search, x), expected.numpy())
        assert search.midpoints.shape == (2**bits,)
        assert search.first.shape == (2 ** (16 - search.key_shift),)


@pytest.mark.parametrize("bits", range(2, 9))
def test_standard_tables_need_one_comparison_and_little_memory(bits):
    for table in standard_tables(bits):
        search = search_of(table, bits, CPU)
        assert search.widest == 1
        assert search.first.nbytes <= 16 * 2**bits
        assert not search.near_zero


def test_a_table_is_made_once_for_all_matrices():
    first = search_of(integer(4), 4, CPU)
    assert search_of(integer(4).clone(), 4, CPU) is first
    assert search_of(integer(4), 5, CPU) is not first


def test_midpoints_near_zero_are_told():
    assert search_of(torch.tensor([-1.0, 1.0]), 2, CPU).near_zero
    assert search_of(torch.tensor([0.0, LEAST_EXACT]), 2, CPU).near_zero
    assert not search_of(torch.tensor([0.0, 2 * LEAST_EXACT]), 2, CPU).near_zero


CASES = [(2, HALF), (4, BF16), (4, FULL), (5, FULL), (8, HALF), (8, BF16)]


@pytest.fixture(scope="module")
def quantizer(tmp_path_factory):
    instances = [Instance("quantize", (bits, dtype, True)) for bits, dtype in CASES]
    instances += [Instance("quantize", (bits, FULL, False)) for bits in (4, 9)]
    return Emulator(instances, tmp_path_factory.mktemp("quantize"))


def assert_words_of_the_reference(values, q):
    words = q.words.clone()
    reference.quantize(values, q)
    assert torch.equal(words, q.words)


def extreme(dtype, n=3000):
    """Blocks of every size a 16-bit scale can have, with weights down to the least in each."""
    generator = torch.Generator().manual_seed(1)
    low, high = {HALF: (-24, 15), BF16: (-132, 127), FULL: (-26, 15)}[dtype]
    span = torch.randint(low, high + 1, (n // 50, 1), generator=generator)
    down = (torch.rand(n // 50, 50, generator=generator) ** 3 * 2 * (high - low)).floor()
    values = torch.randn(n // 50, 50, generator=generator).clamp(-1.9, 1.9).double()
    values = values * 2.0 ** (span - down).clamp(min=-160)
    values[::7, ::3] = 0
    if dtype == FULL:  # an absmax that rounds down to an fp16 subnormal: |x| up to 1.5
        values[::5] *= 1.49 * 2.0**-24 / values[::5].abs().amax(1, keepdim=True).clamp(min=1e-30)
    return values.flatten().to(dtype)


@needs_compiler
@pytest.mark.parametrize("block", [16, 64, 512])
@pytest.mark.parametrize(("bits", "dtype"), CASES)
def test_one_pass_of_odd_tables_and_extreme_weights(quantizer, bits, dtype, block):
    values = extreme(dtype)
    for table in (*odd_tables(bits), *standard_tables(bits)):
        q = empty(values, table, bits, Granularity(block))
        launch, problem = launches.quantize_blocks(values, q, 1)
        quantizer.run(launch)
        assert int(problem) == 0
        assert_words_of_the_reference(values, q)


@needs_compiler
@pytest.mark.parametrize("size", [2.0**-40, 2.0**-115])
def test_midpoints_where_the_fast_division_underflows(quantizer, size):
    """A midpoint is x = 2^-126 / scale, or just below it."""
    generator = torch.Generator().manual_seed(2)
    for _ in range(60):
        mantissas = 1 + torch.randint(128, (2,), generator=generator) / 128
        scale, x = (mantissas * torch.tensor([size, 2.0**-126])).bfloat16()
        values = torch.cat([x.expand(63), scale.expand(1)])
        quotient = x.float() / scale.float()
        for midpoint in (quotient, torch.nextafter(quotient, torch.tensor(0.0))):
            table = torch.stack([torch.tensor(0.0), 2 * midpoint])
            q = empty(values, table, 4, Granularity(64))
            launch, _ = launches.quantize_blocks(values, q, 1)
            quantizer.run(launch)
            assert_words_of_the_reference(values, q)


@needs_compiler
@pytest.mark.parametrize("bits", [4, 9])
def test_any_absmax_with_odd_tables(quantizer, bits):
    values = torch.cat([weights(990), torch.tensor([TINY, -TINY, 0.0, -0.0, 1e38, -1e38])])
    absmax = torch.tensor([0.0, 2**-24, 1e-4, 1.0, 3.0, 65504.0]).half()
    absmax = absmax.repeat(143)[: -(-values.numel() // 7)]
    for table in odd_tables(bits):
        q = empty(values, table, bits, Granularity(7))
        q.absmax.copy_(absmax)
        quantizer.run(launches.quantize(values, q, processors=1))
        assert_words_of_the_reference(values, q)


DIVISIONS = r"""
#include <cmath>
static float off_by(float x, int ulp) { return __uint_as_float(__float_as_uint(x) + ulp); }
static int wrong(float x, float scale) {
    int count = 0;
    for (int ulp = -3; ulp <= 3; ++ulp)
        count += divide(x, scale, off_by(1 / scale, ulp)) != x / scale;
    return count;
}
// All quotients of two fp16 mantissas, and of any 24 bits by 11 with exponents in the range.
extern "C" int wrong_quotients() {
    int count = 0;
    for (int x = 1024; x < 2048; ++x)
        for (int scale = 1024; scale < 2048; ++scale) count += wrong(x, scale);
    unsigned long long state = 1;
    auto random = [&](unsigned n) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return static_cast<unsigned>(state >> 33) % n;
    };
    for (int i = 0; i < 500000; ++i) {
        const float scale = std::ldexp(1024.0f + random(1024), static_cast<int>(random(110)) - 60);
        const int exponent = -24 - static_cast<int>(random(60));
        const double quotient = std::ldexp(8388608.0 + random(8388608), exponent);
        const double beside = i % 2 ? std::ldexp(0.5, exponent) : 0;
        count += wrong((quotient + beside) * scale, scale);  // rounded to the nearest x
    }
    return count;
}
// The greatest quotient of what is too small to be exact.
extern "C" float greatest_inexact() {
    float most = 0;
    for (int s = -50; s <= 60; ++s)
        for (int q = -64; q > -300; --q)
            for (int part = 0; part < 8; ++part) {
                const float scale = std::ldexp(1.0f + part / 8.0f, s), x = std::ldexp(1.99f, s + q);
                for (int ulp = -3; ulp <= 3; ++ulp)
                    if (x / scale < std::ldexp(1.0f, -64))
                        most = std::fmax(most, std::fabs(divide(x, scale, off_by(1 / scale, ulp))));
            }
    return most;
}
"""


@needs_compiler
def test_division_by_a_reciprocal_rounds_as_ieee_division(tmp_path):
    check = library_of(tmp_path / "divide.cpp", ("common.cuh", "quantize.cu"), DIVISIONS)
    check.greatest_inexact.restype = ctypes.c_float
    assert check.wrong_quotients() == 0
    assert 0 < check.greatest_inexact() < 2.0**-63
