"""The path of a CUDA tensor, driven on the CPU: kernels prove themselves or are not used."""

import logging
import re
import shutil
from dataclasses import replace

import pytest
import torch

from quantizers import kernels
from quantizers.blockwise import dequantize, quantize
from quantizers.codebooks import codebook, integer
from quantizers.granularity import Granularity
from quantizers.integers import Codes
from quantizers.kernels import (
    build,
    gpu,
    integer_gpu,
    integer_launches,
    launches,
    proving,
    reference,
    tuning,
)
from quantizers.kernels.build import Instance
from quantizers.kernels.tuning import most_fused_rows
from quantizers.packed import empty
from tests.quantizers.cuda_on_cpu.run import Emulator

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

HALF = torch.float16
B64 = Granularity(64)
LIMITS = launches.Limits(2, 232_448, 1024, byte_tables=True)
INSTANCES = {
    "dequantize": [Instance("dequantize", (3, HALF, fast)) for fast in (True, False)],
    "quantize": [Instance("quantize", (3, HALF, one_pass)) for one_pass in (True, False)],
    "gemv": [Instance("gemv", (3, HALF))],
    "multiply": [Instance("multiply", (3, HALF, tiles, 2, False)) for tiles in (1, 2)],
    "logprob": [Instance("logprob", (dtype,)) for dtype in build.C_TYPES],
    "round_rows": [Instance("round_rows", (HALF, 2))],
    "integer_product": [
        Instance("integer_product", (bits, scales, *tile))
        for bits, scales in ((8, 0), (4, 1))
        for tile in tuning.INTEGER_TILES[::2]
    ],
    "scale_sums": [Instance("scale_sums", (HALF,))],
}
# Among a launch's arguments.
RESULT = {
    "dequantize": "out",
    "quantize": "stream",
    "gemv": "y",
    "multiply": "y",
    "logprob": "logprobs",
    "round_rows": "codes",
    "integer_product": "y",
    "scale_sums": "y",
}


@pytest.fixture(scope="module")
def emulators(tmp_path_factory):
    return {f: Emulator(i, tmp_path_factory.mktemp(f)) for f, i in INSTANCES.items()}


@pytest.fixture
def started(monkeypatch, emulators):
    """gpu.py with the CPU for a device; the instances that it starts."""
    started = []

    def start(launch, device):
        started.append(launch.instance)
        emulators[launch.instance.family].run(launch)

    monkeypatch.setattr(proving, "_kernels", {})
    monkeypatch.setattr(proving, "unsupported", lambda device: None)
    monkeypatch.setattr(proving, "processors", lambda device: 2)
    monkeypatch.setattr(proving, "limits", lambda device: LIMITS)
    monkeypatch.setattr(proving, "_load", lambda launch, device: b"a kernel")
    monkeypatch.setattr(proving, "start", start)
    return started


def example(shape=(20_000,), blocks=B64):
    torch.manual_seed(0)
    return quantize(torch.randn(shape).half(), codebook("float", 3), 3, blocks)


def blank(q):
    """Of the same shape, with no words."""
    return replace(q, words=torch.full_like(q.words, -1))


@pytest.mark.parametrize("blocks", [B64, Granularity(7), Granularity(7, by_row=True)], ids=str)
def test_dequantize_and_quantize(started, blocks):
    q = example((200, 100), blocks)
    values = dequantize(q).flatten()
    for _ in range(2):
        assert torch.equal(gpu.dequantize(q), values)
        # What was dequantized quantizes to the same codes, given the same absmax.
        again = blank(q)
        assert gpu.quantize(values, again)
        assert torch.equal(again.words, q.words)
    assert len(started) == 6  # each instance once more, on the sample
    assert proving.failures() == {}


def test_one_pass(started):
    q = example()
    torch.manual_seed(0)
    values = torch.randn(20_000).half()
    again = empty(values, q.codebook, 3, B64)
    assert gpu.quantize_blocks(values, again)
    assert torch.equal(again.words, q.words) and torch.equal(again.absmax, q.absmax)
    values[777] = torch.nan
    assert not gpu.quantize_blocks(values, again)
    assert not gpu.quantize_blocks(values, empty(values, q.codebook, 3, Granularity(48)))
    assert proving.failures() == {}


@pytest.mark.parametrize(("m", "starts"), [(1, 4), (16, 4), (20, 8)])  # three to prove itself
def test_multiply(started, m, starts):
    q = example((40, 256))
    x = torch.eye(256).half()[7 : 7 + m]
    assert torch.equal(gpu.multiply(x, q, None), dequantize(q).T[7 : 7 + m])
    assert len(started) == starts
    many = torch.ones(most_fused_rows(3, 40 * 256) + 1, 256).half()
    assert gpu.multiply(many, q, None) is None
    assert proving.failures() == {}


def test_matrices_too_large_for_a_cache_are_multiplied_with_more_rows(started, monkeypatch):
    q = example((40, 256))
    x = torch.eye(256).half()
    assert gpu.multiply(x[:48], q, None) is None
    monkeypatch.setattr(tuning, "CACHED_WEIGHTS", 40 * 256 - 1)
    assert torch.equal(gpu.multiply(x[:48], q, None), dequantize(q).T[:48])
    started.clear()
    gpu.multiply(x[:48], q, None)
    assert started == [Instance("multiply", (3, HALF, 2, 2, False))] * 3
    assert gpu.multiply(x[:49], q, None) is None


@pytest.mark.parametrize("dtype", build.C_TYPES, ids=str)
def test_token_logprobs(started, dtype):
    torch.manual_seed(0)
    logits, targets = torch.randn(9, 777).mul(5).to(dtype), torch.randint(777, (9,))
    targets[::2] = logits[::2].argmax(dim=-1)
    logprobs, flags = gpu.token_logprobs(logits, targets, True)
    close, likeliest = kernels.token_logprobs(logits, targets, True)
    torch.testing.assert_close(logprobs, close, rtol=1e-6, atol=1e-5)
    assert torch.equal(flags, likeliest)
    assert started == [Instance("logprob", (dtype,))] * 2  # once on the sample
    assert proving.failures() == {}


@pytest.mark.parametrize(("bits", "group"), [(8, 320), (4, 64)])
def test_integer_products(started, bits, group):
    x, w = integer_gpu.sample(bits, 320 // group, 50, torch.device("cpu"))
    bias = torch.linspace(-9, 9, 140)
    whole = w.unpacked() if bits == 4 else w
    for rows in (1, 50):
        few = Codes(x.values[:rows], x.scale[:rows], 127)
        y = integer_gpu.integer_product(few, w, bias, HALF)
        assert torch.equal(y, reference.integer_product(few, whole, bias, HALF))
    assert len(started) == 2 * (3 + 1)  # each instance in every type of result, on the sample
    assert proving.failures() == {}


@pytest.mark.parametrize("wrong", [torch.half, torch.bfloat16], ids=str)
def test_a_product_that_is_wrong_in_one_type_of_result_is_not_used(started, monkeypatch, wrong):
    right = proving.start

    def start(launch, device):
        right(launch, device)
        if launch.arguments["y"].dtype == wrong:
            launch.arguments["y"].view(torch.uint8)[-1] ^= 1

    monkeypatch.setattr(proving, "start", start)
    x, w = integer_gpu.sample(8, 1, 3, torch.device("cpu"))
    assert integer_gpu.kernel_product(x, w, None, torch.float32) is None
    assert len(proving.failures()) == 1


def test_many_rows_take_the_library_for_their_sums(started, monkeypatch):
    monkeypatch.setattr(tuning, "LIBRARY_TOKENS", 20)
    x, w = integer_gpu.sample(8, 1, 50, torch.device("cpu"))
    w = replace(w, values=w.values[:136], scales=w.scales[:136])
    y = integer_gpu.integer_product(x, w, None, HALF)
    assert torch.equal(y, reference.integer_product(x, w, None, HALF))
    assert {instance.family for instance in started} == {"scale_sums"}
    monkeypatch.setattr(integer_gpu, "library_unsupported", lambda device: "for a test")
    started.clear()
    assert torch.equal(integer_gpu.integer_product(x, w, None, HALF), y)
    assert {instance.family for instance in started} == {"integer_product"}


@pytest.mark.parametrize("fixed", [None, 0.01])
def test_rows_are_rounded(started, fixed):
    x = torch.randn(5, 320).half()
    scale = None if fixed is None else torch.tensor([fixed])
    codes = integer_gpu.round_rows(x, 127, scale)
    assert torch.equal(codes.values, kernels.round_rows(x, 127, fixed).values)
    assert len(started) == 3 and proving.failures() == {}  # two to prove itself


def test_a_kernel_that_is_wrong_on_this_device_is_not_used(started, monkeypatch, caplog):
    right = proving.start

    def start(launch, device):
        right(launch, device)
        result = launch.arguments[RESULT[launch.instance.family]]
        result.view(torch.uint8)[-1] ^= 1  # one bit

    monkeypatch.setattr(proving, "start", start)
    q = example((40, 256))
    x = torch.ones(2, 256).half()
    packed = empty(x, integer(3), 3, B64)
    integers = integer_gpu.sample(8, 1, 3, torch.device("cpu"))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert gpu.dequantize(q) is None
            assert not gpu.quantize(x.flatten(), packed)
            assert not gpu.quantize_blocks(x.flatten(), packed)
            assert gpu.multiply(x, q, None) is None
            assert gpu.token_logprobs(x, torch.tensor([3, 5]), True) is None
            assert integer_gpu.round_rows(x, 127, None) is None
            assert integer_gpu.kernel_product(*integers, None, HALF) is None
            assert integer_gpu.library_product(*integers, None, HALF) is None
    assert len(caplog.records) == 8 == len(proving.failures())
    assert set(proving.failures().values()) == {
        "its result differs from plain torch on this device"
    }
    assert len(started) == 9  # on samples alone


@pytest.mark.parametrize(
    "error", [build.BuildError("no NVRTC here"), RuntimeError("CUDA_ERROR\nof some kind")]
)
def test_a_kernel_that_cannot_be_had_is_not_used(started, monkeypatch, error):
    def load(launch, device):
        raise error

    monkeypatch.setattr(proving, "_load", load)
    assert gpu.dequantize(example()) is None
    [(name, why)] = proving.failures().items()
    assert name == INSTANCES["dequantize"][0].name
    assert " ".join(str(error).split()) in why and "\n" not in why


def test_an_old_device_is_not_tried(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert proving.unsupported(torch.device("cuda", 0)) == "compute capability 7.5 is below 8.0"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))

    def missing():
        raise build.BuildError("NVRTC is not usable: no such library")

    monkeypatch.setattr(build, "nvrtc_version", missing)
    assert "no such library" in proving.unsupported(torch.device("cuda", 0))


def test_nothing_to_do(started):
    q = quantize(torch.empty(0).half(), integer(3), 3, B64)
    assert gpu.dequantize(q) is None
    assert dequantize(q).numel() == 0
    assert started == []


# --- a launch's arguments are the kernel's parameters ---

LAUNCHES = {
    "dequantize": lambda q, x: launches.dequantize(q)[0],
    "quantize": lambda q, x: launches.quantize(dequantize(q).flatten(), q, 2),
    "one pass": lambda q, x: launches.quantize_blocks(dequantize(q).flatten(), q, 2)[0],
    "gemv": lambda q, x: launches.gemv(x[:1], q, x[0, :40], LIMITS)[0],
    "multiply": lambda q, x: launches.multiply(x, q, x[0, :40], LIMITS)[0],
    "logprob": lambda q, x: launches.token_logprobs(x, torch.arange(len(x)), True)[0],
    "round_rows": lambda q, x: integer_launches.round_rows(x, 127, torch.ones(1))[0],
    "W8A8": lambda q, x: integer_case(8, 1)[0],
    "W4A8": lambda q, x: integer_case(4, 5)[0],
    "scale_sums": lambda q, x: integer_launches.scale_sums(
        torch.ones(3, 140, dtype=torch.int32), *integer_gpu.sample(8, 1, 3, x.device), None, HALF
    )[0],
}


def integer_case(bits, groups):
    x, w = integer_gpu.sample(bits, groups, 3, torch.device("cpu"))
    return integer_launches.integer_product(x, w, torch.ones(140), HALF, LIMITS)


# What a pointer's type may point to.
POINTEES = {
    "unsigned": torch.int32,
    "long long": torch.int64,
    "float": torch.float32,
    "unsigned char": torch.bool,
    "T": HALF,
    "Constant": HALF,
    "First<K>": torch.uint8,
    "signed char": torch.int8,
    "Any": HALF,
}


def parameters_of(family):
    """(type, is it a pointer, name) of each parameter, in order, from the kernel's source."""
    source = (build.SOURCES / f"{family}.cu").read_text()
    [inside] = re.findall(rf"__global__[^{{]*\b{family}\((.*?)\)\s*{{", source, re.DOTALL)
    for parameter in inside.split(","):
        declared = re.sub(r"\bconst\b|__restrict__", "", parameter)
        kind, name = re.fullmatch(r"(.*?)(\w+)", " ".join(declared.split())).groups()
        yield kind.replace("*", "").strip(), "*" in kind, name


@pytest.mark.parametrize("case", LAUNCHES)
def test_arguments_are_the_parameters_of_the_kernel(case):
    launch = LAUNCHES[case](example((40, 256)), torch.ones(2, 256).half())
    parameters = list(parameters_of(launch.instance.family))
    assert list(launch.arguments) == [name for _, _, name in parameters]
    for (kind, pointer, name), argument in zip(parameters, launch.arguments.values(), strict=True):
        if not pointer:
            assert kind == "long long" and type(argument) is int, name
        elif argument is not None:
            assert argument.dtype == POINTEES[kind], name
            assert argument.is_contiguous(), name
