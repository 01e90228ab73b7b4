"""The compiled CPU path against the plain-torch reference: the same bits."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quantizers import kernels
from quantizers.codebooks import codebook
from quantizers.kernels import cpu, cpu_lookup, cpu_vector, reference
from quantizers.kernels.cpu_threads import CHUNK
from quantizers.packing import pack

BLOCKS = (1, 7, 16, 32, 64, 100, 4096, 10**6)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
ROOT = Path(__file__).parents[2]


def inputs(n, block, dtype, centered, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n, generator=generator).mul(0.05).to(dtype)
    half = torch.float16 if dtype == torch.float32 else dtype
    n_blocks = -(-n // block)
    absmax = (torch.rand(n_blocks, generator=generator) * 0.2).to(half)
    absmax[::5] = 0
    mean = torch.randn(n_blocks, generator=generator).mul(0.01).to(half) if centered else None
    return values, absmax, mean


def assert_same(values, absmax, mean, table, bits, block):
    words = cpu.quantize_packed(values, absmax, mean, table, bits, block)
    assert torch.equal(words, reference.quantize_packed(values, absmax, mean, table, bits, block))
    args = (words, absmax, mean, table, bits, block, values.numel(), values.dtype)
    ours, theirs = cpu.dequantize_packed(*args), reference.dequantize_packed(*args)
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
            assert_same(values, absmax, mean, table, bits, block)


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("block", [16, 48, 64, 10**7])
def test_many_chunks_and_threads(threads, block):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        values, absmax, mean = inputs(CHUNK * 5 + 77, block, torch.float16, centered=True)
        assert_same(values, absmax, mean, codebook("float", 5), 5, block)
    finally:
        torch.set_num_threads(before)


def test_reference_goes_chunk_by_chunk(monkeypatch):
    values, absmax, mean = inputs(1000, 48, torch.bfloat16, centered=True)
    table = codebook("dynamic", 7)
    whole = reference.quantize_packed(values, absmax, mean, table, 7, 48)
    monkeypatch.setattr(reference, "_CHUNK", 96)
    assert torch.equal(reference.quantize_packed(values, absmax, mean, table, 7, 48), whole)
    assert_same(values, absmax, mean, table, 7, 48)


def test_other_devices_take_the_reference(monkeypatch):
    """Checked on torch's meta device, which has shapes and no data."""
    called = []
    monkeypatch.setattr(reference, "quantize_packed", lambda *a: called.append("quantize"))
    monkeypatch.setattr(reference, "dequantize_packed", lambda *a: called.append("dequantize"))
    values = torch.empty(64, device="meta", dtype=torch.float16)
    words = torch.empty(8, device="meta", dtype=torch.int32)
    kernels.quantize_packed(values, values[:1], None, codebook("int", 4), 4, 64)
    kernels.dequantize_packed(words, values[:1], None, codebook("int", 4), 4, 64, 64, torch.half)
    assert called == ["quantize", "dequantize"]


@pytest.mark.parametrize("path", [cpu, reference], ids=["cpu", "reference"])
def test_an_index_beyond_the_codebook_is_nan(path):
    words = torch.tensor([0x0000000F], dtype=torch.int32)  # 4-bit int has 15 values
    one = torch.ones(1, dtype=torch.float16)
    out = path.dequantize_packed(words, one, None, codebook("int", 4), 4, 64, 2, torch.float16)
    assert out.isnan().tolist() == [True, False]


def test_processes_that_start_together_share_an_empty_cache(tmp_path):
    program = (
        "import torch\n"
        "from quantizers.blockwise import quantize, dequantize\n"
        "from quantizers.codebooks import codebook\n"
        "x = torch.linspace(-1, 1, 1001)\n"
        "q = quantize(x, codebook('int', 8), 8, 64)\n"
        "assert (dequantize(q) - x).abs().max() < 0.005\n"
    )
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1", "PATH": ""}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors.decode()
    decoders = 2 if cpu_vector.runs_here() else 1
    assert len(list(tmp_path.rglob("*.nbi"))) == 1 + decoders  # and the encoder


@pytest.mark.parametrize("bits", range(2, 9))
def test_permutations_read_within_the_stream_and_cover_nearly_all(bits):
    for n in (1, 63, 64, 65, 1000, 4096):
        words = -(-n * bits // 32)
        done = cpu_vector.covered(n, words, bits, 64)
        assert done % cpu_vector.GROUP == 0 and done <= n
        if done:
            last_load = (done - cpu_vector.GROUP) * bits // 8
            assert last_load + 64 <= 4 * words
        assert n - done <= cpu_vector.GROUP * 5  # at 2 bit a load is of four groups
    assert cpu_vector.covered(4096, 128 * bits, bits, 10**6) > 0  # one block
    assert cpu_vector.covered(4096, 128 * bits, bits, 48) == 0
    assert cpu_vector.covered(4096, 128 * bits, bits, 8) == 0


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
    args = (pack(codes, bits), absmax, None, table, bits, 16, codes.numel(), dtype)
    ours, theirs = cpu.dequantize_packed(*args), reference.dequantize_packed(*args)
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
    for centers in (None, mean):
        args = (words, absmax, centers, codebook("dynamic", bits), bits, 32, 7 * 32, dtype)
        ours, theirs = cpu.dequantize_packed(*args), reference.dequantize_packed(*args)
        assert torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))
        assert centers is None or dtype == torch.float32 or ours.isinf().any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_processors_that_cannot_round_to_fp16(monkeypatch, dtype):
    values, absmax, mean = inputs(CHUNK * 2 + 77, 48, dtype, centered=True)
    monkeypatch.setattr(cpu_lookup, "runs_here", lambda: False)
    monkeypatch.setattr(cpu_lookup, "decode", None)  # not called
    monkeypatch.setattr(cpu_vector, "decode", None)
    assert_same(values, absmax, mean, codebook("float", 5), 5, 48)
