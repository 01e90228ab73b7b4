"""The CUDA kernels on a GPU: `pytest -m gpu` runs these and prints the benchmark table.

compute-sanitizer takes the same program:
    compute-sanitizer python -m pytest -m gpu -k "not benchmark and not huge"
"""

from dataclasses import replace

import pytest
import torch

from quantizers import kernels
from quantizers.blockwise import dequantize, quantize
from quantizers.codebooks import codebook, floating, integer, quantile
from quantizers.data_types import DATA_TYPES
from quantizers.granularity import ROW, Granularity
from quantizers.kernels import gpu, launches, proving, reference
from quantizers.kernels.build import Instance
from quantizers.linear import KBitLinear
from quantizers.outliers import dequantize_matrix, quantize_matrix
from quantizers.setting import Setting

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

CUDA = torch.device("cuda", 0)
B64 = Granularity(64)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
BLOCKS = [Granularity(size) for size in (1, 7, 16, 32, 64, 100, 256, 1024, 4096, None)]
BY_ROW = [Granularity(size, by_row=True) for size in (7, 64, 100, None)]
SIZES = (1, 31, 32, 33, 63, 64, 65, 1000, 70_001)


@pytest.fixture(autouse=True)
def every_kernel_is_used():
    yield
    assert proving.failures() == {}


@pytest.fixture
def poison(monkeypatch):
    """Memory that torch hands out holds a pattern no kernel writes: what is left out shows."""
    empty = torch.empty

    def poisoned(*args, **kwargs):
        tensor = empty(*args, **kwargs)
        if tensor.numel():
            tensor.view(torch.uint8).fill_(0xA5)
        return tensor

    monkeypatch.setattr(torch, "empty", poisoned)


def table_of(data_type, bits, values):
    return quantile(bits, values) if data_type == "quantile" else codebook(data_type, bits)


def weights_of(n, dtype, seed=0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)).mul(0.05).to(dtype)


def same_bits(a, b):
    return a.dtype == b.dtype and torch.equal(a.cpu().view(torch.uint8), b.view(torch.uint8))


@pytest.mark.parametrize("block", BLOCKS + BY_ROW, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bits", range(2, 16))
def test_same_bits_as_the_cpu(poison, bits, dtype, block):
    """Packed words, absmax, mean and dequantized weights, for every data type and odd sizes."""
    for data_type in DATA_TYPES:
        for n in SIZES if data_type == "dynamic" else SIZES[-1:]:
            values = weights_of(n, dtype, n)
            values[n // 3 : n // 2] = 0
            if block in BY_ROW and n >= 1000:
                values = values[:70_000].view(-1, 250)
            table = table_of(data_type, bits, values)
            for centered in (False, True):
                if centered and dtype == torch.float32:
                    continue  # fp64 sums of fp32 weights depend on their order
                here = quantize(values, table, bits, block, centered)
                there = quantize(values.to(CUDA), table, bits, block, centered)
                assert same_bits(there.words, here.words)
                assert same_bits(there.absmax, here.absmax)
                assert same_bits(dequantize(there), dequantize(here))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("block", [Granularity(n) for n in (64, 512, 2048, 7)], ids=str)
@pytest.mark.parametrize("table", ["wide float", "two values", "near zero"])
def test_tables_that_take_more_than_one_look_up(table, block, dtype):
    """Midpoints that lie close together, or so near zero that quotients must not underflow."""
    codes = {
        "wide float": floating(8, 7),
        "two values": torch.tensor([-1.0, 1.0]),
        "near zero": torch.tensor([-1.0, -1e-42, 1e-42, 1e-30, 1.0]),
    }[table]
    values = weights_of(70_001, dtype) * torch.logspace(-6, 1, 70_001).to(dtype)
    here, there = (quantize(v, codes, 8, block) for v in (values, values.to(CUDA)))
    assert same_bits(there.words, here.words) and same_bits(there.absmax, here.absmax)


@pytest.mark.parametrize("bits", range(2, 9))
def test_quantile_tables_are_those_of_the_cpu(bits):
    values = weights_of(100_003, torch.float16)
    assert torch.equal(quantile(bits, values.to(CUDA)), quantile(bits, values))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_cannot_be_quantized(bad):
    values = weights_of(5000, torch.float16).to(CUDA)
    values[4321] = bad
    with pytest.raises(ValueError, match="layer.7: the weights have NaN or inf"):
        quantize(values, integer(4), 4, B64, name="layer.7")
    with pytest.raises(ValueError, match="overflows"):
        quantize(torch.full((64,), 65520.0, device=CUDA), integer(4), 4, B64)


def test_tensors_on_different_devices_are_refused():
    q = quantize(weights_of(1000, torch.float16).to(CUDA), integer(4), 4, B64)
    with pytest.raises(ValueError, match="absmax: is on cpu, the weights are on cuda"):
        replace(q, absmax=q.absmax.cpu())


def packed_matrix(bits, dtype, d_out, d_in, block=B64, seed=0):
    weight = weights_of(d_out * d_in, dtype, seed).view(d_out, d_in).to(CUDA)
    return quantize(weight, codebook("dynamic", bits), bits, block)


def product(q, x, bias=None):
    return gpu.multiply(x, q, bias)


@pytest.mark.parametrize("block", [*(Granularity(n) for n in (16, 64, 4096, None)), ROW], ids=str)
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("bits", range(2, 9))
def test_identity_gives_the_matrix(poison, bits, dtype, block):
    q = packed_matrix(bits, dtype, 261, 512, block)
    eye = torch.eye(512, dtype=dtype, device=CUDA)
    for m in (1, 8, 16):
        weight = dequantize(q) if m == 1 else reference.fused_weights(q)
        for start in range(0, 512, 16):
            y = product(q, eye[start : start + m])
            assert torch.equal(y, weight.T[start : start + m])


@pytest.mark.parametrize("m", [1, 2, 3, 5, 8, 9, 13, 16])
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("bits", range(2, 9))
def test_product_on_random_input(poison, bits, dtype, m):
    for d_out, d_in in [(1, 128), (4096, 4096), (1000, 11008)]:
        q = packed_matrix(bits, dtype, d_out, d_in, seed=m)
        x = torch.randn(m, d_in, device=CUDA, dtype=dtype)
        bias = torch.randn(d_out, device=CUDA, dtype=dtype)
        weight = dequantize(q).double()
        exact = x.double() @ weight.T + bias
        # One product alone may cancel: what it is a sum of says how large it could be.
        size = torch.maximum(exact.norm(), x.double().norm() * weight.norm() / d_in**0.5)
        error = (product(q, x, bias) - exact).norm() / size
        assert error <= (2e-3 if dtype == torch.float16 else 1.1e-2)


@pytest.mark.parametrize("vocabulary", [1, 7, 5120, 50_257, 50_304, 250_880])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_token_logprobs(poison, dtype, vocabulary):
    """Random rows, rows with equal logits, and rows that are not finite."""
    generator = torch.Generator(CUDA).manual_seed(0)
    logits = torch.randn(300, vocabulary, device=CUDA, generator=generator).mul(4).to(dtype)
    targets = torch.randint(vocabulary, (300,), device=CUDA, generator=generator)
    targets[::3] = logits[::3].argmax(dim=-1)
    logits[10:20, :: max(1, vocabulary // 5)] = 40
    logits[20:30, vocabulary // 2 :] = -torch.inf
    logits[30, vocabulary // 2], logits[31, 0] = torch.nan, torch.inf
    targets[10:32] = (torch.arange(22, device=CUDA) % 5) * max(1, vocabulary // 5) % vocabulary
    logprobs, flags = kernels.token_logprobs(logits, targets, greedy=True)
    exact = logits.double().log_softmax(dim=-1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(logprobs.double(), exact, rtol=1e-6, atol=3e-6, equal_nan=True)
    assert torch.equal(flags, logits.max(dim=-1).indices == targets)
    again = kernels.token_logprobs(logits, targets, greedy=False)
    assert again[1] is None and same_bits(again[0], logprobs.cpu())


def test_views_that_are_not_contiguous_or_begin_off_16_bytes():
    values = weights_of(4001, torch.float16).to(CUDA)
    for view in (values[1:], values[:4000].view(40, 100).T, values[::2]):
        here = quantize(view.cpu(), integer(3), 3, B64)
        there = quantize(view, integer(3), 3, B64)
        assert same_bits(there.words, here.words)
        assert same_bits(dequantize(there), dequantize(here))
    q = packed_matrix(4, torch.float16, 64, 256)
    words = torch.cat([q.words[:1], q.words])[1:]
    absmax = torch.cat([q.absmax[:1], q.absmax])[1:]
    shifted = replace(q, words=words, absmax=absmax)
    assert torch.equal(dequantize(shifted), dequantize(q))
    x = torch.randn(2, 257, device=CUDA).half()[:, 1:]
    assert torch.equal(kernels.multiply(x, shifted), product(q, x.contiguous()))


def test_another_stream():
    """Behind work that takes a while on that stream, and with nothing waiting for it but it."""
    values = weights_of(2**22, torch.float16)
    here = quantize(values, integer(4), 4, B64)
    stream = torch.cuda.Stream(CUDA)
    with torch.cuda.stream(stream):
        there = torch.zeros_like(values, device=CUDA)
        torch.cuda._sleep(20_000_000)
        there.copy_(values)
        q = quantize(there, integer(4), 4, B64)
        out = dequantize(q)
    stream.synchronize()
    assert same_bits(q.words, here.words) and same_bits(out, dequantize(here))


def test_huge_tensor():
    """Past 2^31 weights: every index that is 32 bits too short shows at the end."""
    n = 2**31 + 1000
    if torch.cuda.mem_get_info(CUDA)[0] < 20 * 2**30:
        pytest.skip("needs 20 GiB of GPU memory")
    values = torch.empty(n, dtype=torch.float16, device=CUDA).normal_()
    q = quantize(values, integer(3), 3, B64)
    out = dequantize(q)
    for start in (0, 2**30 - 512, 2**31 - 512, n - 1000):
        start = start // 64 * 64
        stop = min(start + 1024, n)
        small = quantize(values[start:stop].cpu(), integer(3), 3, B64)
        assert same_bits(out[start:stop], dequantize(small))
        words = q.words[start * 3 // 32 :][: small.words.numel()]
        assert same_bits(words, small.words)


def test_linear_layer_chooses_its_path(monkeypatch):
    matrix = quantize_matrix(
        weights_of(256 * 512, torch.float16).view(256, 512).to(CUDA),
        Setting.make(4, "float", block_size=64),
    )
    layer, weight = KBitLinear(matrix), dequantize_matrix(matrix)
    eye = torch.eye(512, device=CUDA).half()
    fused = reference.fused_weights(matrix.body)
    assert torch.equal(layer(eye[:16].view(4, 4, 512)).view(16, 256), fused.T[:16])
    started, start = [], proving.start

    def noted(launch, device):
        started.append(launch.instance.family)
        start(launch, device)

    monkeypatch.setattr(proving, "start", noted)
    for rows in (1, 16, 32, 33, 512):  # each has proved itself, or is noted as it does
        layer(eye[:rows])
        started.clear()
        kinds = {1: ["gemv"], 16: ["multiply"], 32: ["multiply"] * 2}
        expected = fused if rows in (16, 32) else weight
        assert torch.equal(layer(eye[:rows]), expected.T[:rows])
        assert started == kinds.get(rows, ["dequantize"])


def test_every_family_was_checked_against_plain_torch():
    values = weights_of(1000, torch.float16).to(CUDA)
    q = quantize(values, integer(4), 4, B64)
    assert torch.equal(dequantize(q), reference.dequantize(q))
    launch, _ = launches.dequantize(q)
    assert launch.instance == Instance("dequantize", (4, torch.float16, True))
    assert (launch.instance.name, 0) in proving._kernels


def test_benchmark_table(capsys):
    from benchmarks.kernels import main

    with capsys.disabled():
        print()
        assert main([]) == 0
