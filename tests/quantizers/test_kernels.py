"""The compiled CPU path against the plain-torch reference: the same bits."""

from dataclasses import replace

import pytest
import torch

from quantizers import kernels
from quantizers.blockwise import dequantize, quantize
from quantizers.codebooks import codebook
from quantizers.granularity import Granularity
from quantizers.kernels import cpu, cpu_lookup, cpu_vector, reference
from quantizers.kernels.cpu_threads import CHUNK
from quantizers.packed import PackedTensor, empty
from quantizers.packing import pack
from tests.quantizers.processes import run_together

BLOCKS = (1, 7, 16, 32, 64, 100, 4096, 10**6)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def inputs(n, block, dtype, centered, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n, generator=generator).mul(0.05).to(dtype)
    half = torch.float16 if dtype == torch.float32 else dtype
    n_blocks = -(-n // block)
    absmax = (torch.rand(n_blocks, generator=generator) * 0.2).to(half)
    absmax[::5] = 0
    mean = torch.randn(n_blocks, generator=generator).mul(0.01).to(half) if centered else None
    return values, absmax, mean


def packed_of(values, absmax, mean, table, bits, granularity):
    """With the constants given, its words not written."""
    q = empty(values, table, bits, granularity, mean is not None)
    return replace(q, absmax=absmax, mean=mean)


def assert_same(values, q):
    flat = values.flatten()
    reference.quantize(flat, q)
    words = q.words.clone()
    q.words.fill_(-1)
    cpu.quantize(flat, q)
    assert torch.equal(words, q.words)
    ours, theirs = cpu.dequantize(q), reference.dequantize(q)
    assert ours.dtype == theirs.dtype == values.dtype
    assert torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))
    assert ours.isfinite().all()


@pytest.fixture(params=["permutations", "look-ups"])
def decoder(request, monkeypatch):
    """Each of the fast decoders, the second on processors that have the first too."""
    if request.param == "look-ups":
        monkeypatch.setattr(cpu_vector, "runs_here", lambda: False)
    elif not cpu_vector.runs_here():
        pytest.skip("this processor has no AVX-512 VBMI")


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("bits", range(2, 16))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bit_identical_to_the_reference(bits, dtype):
    table = codebook(("int", "float", "dynamic")[bits % 3], bits)
    for n in (1, 31, 32, 33, 63, 64, 65, 320, 1000):
        for i, block in enumerate(BLOCKS):
            values, absmax, mean = inputs(n, block, dtype, centered=(n + i) % 2 == 0)
            assert_same(values, packed_of(values, absmax, mean, table, bits, Granularity(block)))


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("size", [1, 7, 64, 100, 128, None])
@pytest.mark.parametrize("bits", [2, 5, 8, 12])
def test_blocks_that_do_not_cross_rows(bits, size):
    """Also rows of fewer weights than the words' groups of 32, and several chunks of rows."""
    table = codebook("float", bits)
    for shape in ((1, 1), (7, 5), (3, 130), (40, 129), (9, 5000), (4, 128)):
        values, _, _ = inputs(shape[0] * shape[1], 1, DTYPES[bits % 3], centered=False)
        values = values.view(shape)
        for centered in (False, True):
            q = quantize(values, table, bits, Granularity(size, by_row=True), centered)
            assert_same(values, q)
            rows = [quantize(row, table, bits, Granularity(size), centered) for row in values]
            assert torch.equal(q.absmax, torch.cat([row.absmax for row in rows]))
            assert torch.equal(dequantize(q), torch.stack([dequantize(row) for row in rows]))


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("block", [16, 48, 64, 10**7])
def test_many_chunks_and_threads(threads, block):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        values, absmax, mean = inputs(CHUNK * 5 + 77, block, torch.float16, centered=True)
        blocks = Granularity(block)
        assert_same(values, packed_of(values, absmax, mean, codebook("float", 5), 5, blocks))
    finally:
        torch.set_num_threads(before)


def test_reference_goes_chunk_by_chunk(monkeypatch):
    values, absmax, mean = inputs(1000, 48, torch.bfloat16, centered=True)
    q = packed_of(values, absmax, mean, codebook("dynamic", 7), 7, Granularity(48))
    reference.quantize(values, q)
    whole = q.words.clone()
    monkeypatch.setattr(reference, "_CHUNK", 96)
    assert_same(values, q)
    assert torch.equal(q.words, whole)


def test_other_devices_take_the_reference(monkeypatch):
    """Checked on torch's meta device, which has shapes and no data."""
    called = []
    monkeypatch.setattr(reference, "quantize", lambda *a: called.append("quantize"))
    monkeypatch.setattr(reference, "dequantize", lambda *a: called.append("dequantize"))
    values = torch.empty(64, device="meta", dtype=torch.float16)
    q = empty(values, codebook("int", 4), 4, Granularity(64))
    kernels.quantize(values, q)
    kernels.dequantize(q)
    assert called == ["quantize", "dequantize"]


@pytest.mark.parametrize("path", [cpu, reference], ids=["cpu", "reference"])
def test_an_index_beyond_the_codebook_is_nan(path):
    words = torch.tensor([0x0000000F], dtype=torch.int32)  # 4-bit int has 15 values
    one = torch.ones(1, dtype=torch.float16)
    shape, blocks = torch.Size((2,)), Granularity(64)
    q = PackedTensor(words, one, None, codebook("int", 4), 4, blocks, shape, torch.float16)
    out = path.dequantize(q)
    assert out.isnan().tolist() == [True, False]


def test_processes_that_start_together_share_an_empty_cache(tmp_path):
    run_together(
        2,
        "import numba, torch\n"
        "from quantizers.blockwise import quantize, dequantize\n"
        "from quantizers.codebooks import codebook\n"
        "from quantizers.granularity import Granularity\n",
        [
            "x = torch.linspace(-1, 1, 1001)",
            "q = quantize(x, codebook('int', 8), 8, Granularity(64))",
            "assert (dequantize(q) - x).abs().max() < 0.005",
        ],
        {"NUMBA_CACHE_DIR": str(tmp_path), "PATH": ""},
    )
    decoders = 2 if cpu_vector.runs_here() else 1
    assert len(list(tmp_path.rglob("*.nbi"))) == 1 + decoders  # and the encoder


@pytest.mark.parametrize("bits", range(2, 9))
def test_permutations_read_within_the_stream_and_cover_nearly_all(bits):
    for n in (1, 63, 64, 65, 1000, 4096):
        words = -(-n * bits // 32)
        done = cpu_vector.covered(words, bits, Granularity(64).blocks((n,)))
        assert done % cpu_vector.GROUP == 0 and done <= n
        if done:
            last_load = (done - cpu_vector.GROUP) * bits // 8
            assert last_load + 64 <= 4 * words
        assert n - done <= cpu_vector.GROUP * 5  # at 2 bit a load is of four groups
    for size, by_row, some in [
        (10**6, False, True),  # one block
        (48, False, False),
        (8, False, False),
        (32, True, True),  # rows of 64
        (None, True, True),
        (48, True, False),
    ]:
        blocks = Granularity(size, by_row).blocks((64, 64))
        assert (cpu_vector.covered(128 * bits, bits, blocks) > 0) == some


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bits", range(2, 9))
def test_every_code_of_a_table_nearly_full(bits, dtype):
    """All indices, the last beyond the codebook: NaN, of whatever bits."""
    generator = torch.Generator().manual_seed(bits)
    codes = torch.cat(
        [torch.arange(2**bits), torch.randint(0, 2**bits, (1024,), generator=generator)]
    )
    table = torch.linspace(-1, 1, 2**bits - 1)
    half = torch.float16 if dtype == torch.float32 else dtype
    absmax = torch.rand(-(-codes.numel() // 16), generator=generator).to(half)
    words, shape = pack(codes, bits), codes.shape
    q = PackedTensor(words, absmax, None, table, bits, Granularity(16), shape, dtype)
    ours, theirs = cpu.dequantize(q), reference.dequantize(q)
    invalid = codes >= table.numel()
    assert torch.equal(ours.isnan(), invalid) and torch.equal(theirs.isnan(), invalid)
    assert torch.equal(ours.nan_to_num(), theirs.nan_to_num())


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bits", range(2, 9))
def test_rounding_at_the_ends_of_the_types(bits, dtype):
    """Subnormal results, and sums with the mean that overflow, on the fast decoder."""
    half = torch.float16 if dtype == torch.float32 else dtype
    tiny, huge = torch.finfo(half).smallest_normal, torch.finfo(half).max
    absmax = torch.tensor([0, tiny / 64, tiny / 3, tiny, 2 * tiny, huge / 2, huge], dtype=half)
    mean = torch.tensor([0, -tiny / 64, 0, tiny / 7, 0, -huge, huge], dtype=half)
    words = torch.randint(-(2**31), 2**31 - 1, (7 * bits,)).to(torch.int32)
    table, shape, blocks = codebook("dynamic", bits), torch.Size((7 * 32,)), Granularity(32)
    for centers in (None, mean):
        q = PackedTensor(words, absmax, centers, table, bits, blocks, shape, dtype)
        ours, theirs = cpu.dequantize(q), reference.dequantize(q)
        assert torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))
        assert centers is None or dtype == torch.float32 or ours.isinf().any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_processors_that_cannot_round_to_fp16(monkeypatch, dtype):
    values, absmax, mean = inputs(CHUNK * 2 + 77, 48, dtype, centered=True)
    monkeypatch.setattr(cpu_lookup, "runs_here", lambda: False)
    monkeypatch.setattr(cpu_lookup, "decode", None)  # not called
    monkeypatch.setattr(cpu_vector, "decode", None)
    table = codebook("float", 5)
    assert_same(values, packed_of(values, absmax, mean, table, 5, Granularity(48)))
    q = quantize(values[:32_800].view(328, 100), table, 5, Granularity(48, by_row=True), True)
    assert_same(values[:32_800].view(328, 100), q)
