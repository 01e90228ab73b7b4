"""The path of a CUDA tensor, driven on the CPU: kernels prove themselves or are not used."""

import logging
import shutil

import pytest
import torch

from quantizers import kernels
from quantizers.blockwise import dequantize, quantize
from quantizers.codebooks import codebook, integer
from quantizers.kernels import build, checks, gpu, launches, tuning
from quantizers.kernels.tuning import most_fused_rows
from tests.quantizers.cuda_on_cpu.run import Emulator

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

HALF = torch.float16
NAMES = {
    "dequantize": [build.dequantize_name(3, HALF, fast) for fast in (True, False)],
    "quantize": [build.quantize_name(3, HALF, one_pass) for one_pass in (True, False)],
    "gemv": [build.gemv_name(3, HALF)],
    "multiply": [build.multiply_name(3, HALF, tiles, 2, False) for tiles in (1, 2)],
    "logprob": [build.logprob_name(dtype) for dtype in build.C_TYPES],
}
# Among a launch's arguments.
RESULT = {"dequantize": 4, "quantize": 5, "gemv": 5, "multiply": 5, "logprob": 2}


@pytest.fixture(scope="module")
def emulators(tmp_path_factory):
    return {f: Emulator(f, names, tmp_path_factory.mktemp(f)) for f, names in NAMES.items()}


@pytest.fixture
def started(monkeypatch, emulators):
    """gpu.py with the CPU for a device; the names of the kernels that it starts."""
    names = []

    def start(launch, device):
        names.append(launch.name)
        emulators[launch.family].run(launch)

    monkeypatch.setattr(gpu, "_kernels", {})
    monkeypatch.setattr(gpu, "unsupported", lambda device: None)
    monkeypatch.setattr(gpu, "processors", lambda device: 2)
    monkeypatch.setattr(gpu, "limits", lambda device: launches.Limits(2, 232_448, 1024, True))
    monkeypatch.setattr(gpu, "_load", lambda launch, device: b"a kernel")
    monkeypatch.setattr(gpu, "start", start)
    return names


def example(n=20_000, block=64):
    torch.manual_seed(0)
    return quantize(torch.randn(n).half(), codebook("float", 3), 3, block)


def arguments(q):
    return q.packed, q.absmax, None, q.codebook, 3, q.block_size, q.shape.numel(), HALF


@pytest.mark.parametrize("block", [64, 7])
def test_dequantize_and_quantize(started, block):
    q = example(block=block)
    values = dequantize(q)
    for _ in range(2):
        assert torch.equal(gpu.dequantize_packed(*arguments(q)), values)
        # What was dequantized quantizes to the same codes, given the same absmax.
        assert torch.equal(
            gpu.quantize_packed(values, q.absmax, None, q.codebook, 3, block), q.packed
        )
    assert len(started) == 6  # each instance once more, on the sample
    assert gpu.failures() == {}


def test_one_pass(started):
    q = example()
    torch.manual_seed(0)
    values = torch.randn(20_000).half()
    words, absmax = gpu.quantize_blocks(values, q.codebook, 3, 64)
    assert torch.equal(words, q.packed) and torch.equal(absmax, q.absmax)
    values[777] = torch.nan
    assert gpu.quantize_blocks(values, q.codebook, 3, 64) is None
    assert gpu.quantize_blocks(values, q.codebook, 3, 48) is None
    assert gpu.failures() == {}


@pytest.mark.parametrize(("m", "starts"), [(1, 4), (16, 4), (20, 8)])  # three to prove itself
def test_multiply(started, m, starts):
    q = example(40 * 256)
    x = torch.eye(256).half()[7 : 7 + m]
    y = gpu.multiply(x, q.packed, q.absmax, q.codebook, None, 3, 64, 40)
    assert torch.equal(y, dequantize(q).view(40, 256).T[7 : 7 + m])
    assert len(started) == starts
    many = torch.ones(most_fused_rows(3, 40 * 256) + 1, 256).half()
    assert gpu.multiply(many, q.packed, q.absmax, q.codebook, None, 3, 64, 40) is None
    assert gpu.failures() == {}


def test_matrices_too_large_for_a_cache_are_multiplied_with_more_rows(started, monkeypatch):
    q = example(40 * 256)
    packed = q.packed, q.absmax, q.codebook, None, 3, 64, 40
    x = torch.eye(256).half()
    assert gpu.multiply(x[:48], *packed) is None
    monkeypatch.setattr(tuning, "CACHED_WEIGHTS", 40 * 256 - 1)
    assert torch.equal(gpu.multiply(x[:48], *packed), dequantize(q).view(40, 256).T[:48])
    started.clear()
    gpu.multiply(x[:48], *packed)
    assert started == [build.multiply_name(3, HALF, 2, 2, False)] * 3
    assert gpu.multiply(x[:49], *packed) is None


@pytest.mark.parametrize("dtype", build.C_TYPES, ids=str)
def test_token_logprobs(started, dtype):
    torch.manual_seed(0)
    logits, targets = torch.randn(9, 777).mul(5).to(dtype), torch.randint(777, (9,))
    targets[::2] = logits[::2].argmax(dim=-1)
    logprobs, flags = gpu.token_logprobs(logits, targets, True)
    close, likeliest = kernels.token_logprobs(logits, targets, True)
    torch.testing.assert_close(logprobs, close, rtol=1e-6, atol=1e-5)
    assert torch.equal(flags, likeliest)
    assert started == [build.logprob_name(dtype)] * 2  # once on the sample
    assert gpu.failures() == {}


def test_a_kernel_that_is_wrong_on_this_device_is_not_used(started, monkeypatch, caplog):
    right = gpu.start

    def start(launch, device):
        right(launch, device)
        result = launch.arguments[RESULT[launch.family]]
        result.view(torch.uint8)[-1] ^= 1  # one bit

    monkeypatch.setattr(gpu, "start", start)
    q = example(40 * 256)
    x = torch.ones(2, 256).half()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert gpu.dequantize_packed(*arguments(q)) is None
            assert gpu.quantize_packed(x.flatten(), q.absmax[:8], None, integer(3), 3, 64) is None
            assert gpu.quantize_blocks(x.flatten(), integer(3), 3, 64) is None
            assert gpu.multiply(x, q.packed, q.absmax, q.codebook, None, 3, 64, 40) is None
            assert gpu.token_logprobs(x, torch.tensor([3, 5]), True) is None
    assert len(caplog.records) == 5 == len(gpu.failures())
    assert set(gpu.failures().values()) == {"its result differs from plain torch on this device"}
    assert len(started) == 5  # on samples alone


@pytest.mark.parametrize(
    "error", [build.BuildError("no NVRTC here"), RuntimeError("CUDA_ERROR\nof some kind")]
)
def test_a_kernel_that_cannot_be_had_is_not_used(started, monkeypatch, error):
    def load(launch, device):
        raise error

    monkeypatch.setattr(gpu, "_load", load)
    assert gpu.dequantize_packed(*arguments(example())) is None
    [(name, why)] = gpu.failures().items()
    assert name == NAMES["dequantize"][0]
    assert " ".join(str(error).split()) in why and "\n" not in why


def test_an_old_device_is_not_tried(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert gpu.unsupported(torch.device("cuda", 0)) == "compute capability 7.5 is below 8.0"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))

    def missing():
        raise build.BuildError("NVRTC is not usable: no such library")

    monkeypatch.setattr(build, "nvrtc_version", missing)
    assert "no such library" in gpu.unsupported(torch.device("cuda", 0))


def test_nothing_to_do(started):
    q = quantize(torch.empty(0).half(), integer(3), 3, 64)
    assert gpu.dequantize_packed(*arguments(q)) is None
    assert dequantize(q).numel() == 0
    assert started == []


BAD_TABLES = {
    "unsorted": (torch.tensor([0.0, 1.0, -1.0]), "not sorted"),
    "too long": (torch.linspace(-1, 1, 9), "9 values do not fit 3 bits"),
    "NaN": (torch.tensor([-1.0, torch.nan]), "NaN or inf"),
    "empty": (torch.empty(0), "0 values"),
    "fp64": (torch.linspace(-1, 1, 8).double(), "must be float32"),
}


@pytest.mark.parametrize("bad", BAD_TABLES)
def test_bad_tables(bad):
    table, message = BAD_TABLES[bad]
    q = example()
    with pytest.raises(ValueError, match=message):
        kernels.quantize_packed(dequantize(q), q.absmax, None, table, 3, 64)
    with pytest.raises(ValueError, match=message):
        kernels.dequantize_packed(q.packed, q.absmax, None, table, 3, 64, 20_000, HALF)


META = torch.device("meta")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 1}, "bits: 1 is not in 2..15"),
        ({"bits": 16}, "bits: 16 is not in 2..15"),
        ({"bits": 4}, "20000 weights of 4 bits take 2500 words"),
        ({"n": 20_033}, "packed stream"),
        ({"words": torch.zeros(1875)}, "must be int32"),
        ({"block": 0}, "block size: 0 is below 1"),
        ({"block": 32}, "absmax: 20000 weights in blocks of 32 have 625 constants"),
        ({"absmax": torch.ones(313)}, "absmax: must be float16"),
        ({"absmax": torch.ones(313, device=META).half()}, "absmax: is on meta"),
        ({"mean": torch.ones(312).half()}, "mean: 20000 weights"),
        ({"mean": torch.ones(313).bfloat16()}, "mean: is torch.bfloat16"),
        ({"mean": torch.ones(313, device=META).half()}, "mean: is on meta"),
        ({"dtype": torch.int8}, "dtype: must be float16"),
    ],
)
def test_arguments_that_disagree(change, message):
    names = ("words", "absmax", "mean", "codebook", "bits", "block", "n", "dtype")
    given = dict(zip(names, arguments(example()), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        kernels.dequantize_packed(**given)


def test_checks_accept_what_quantizers_write():
    for bits in range(2, 16):
        for data_type in ("int", "float", "dynamic"):
            checks.check_codebook(codebook(data_type, bits), bits)
