"""Integer products on a GPU: `pytest -m gpu`."""

import pytest
import torch

from quantizers.integers import Codes, PackedIntegers
from quantizers.kernels import integer_gpu, measured, proving, reference, round_rows

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def every_kernel_is_used():
    yield
    assert proving.failures() == {}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("columns", [8, 320, 4096, 11008, 16384])
def test_rows_are_rounded_as_on_the_cpu(dtype, columns):
    x = torch.randn(33, columns, generator=torch.Generator().manual_seed(columns)).mul(9).to(dtype)
    x[4], x[5, 3] = 0, torch.inf
    for fixed in (None, 0.01):
        codes, expected = round_rows(x.to(CUDA), 127, fixed), reference_rows(x, fixed)
        assert torch.equal(codes.values.cpu(), expected.values)
        assert torch.equal(codes.scale.cpu().view(torch.int32), expected.scale.view(torch.int32))


def reference_rows(x, fixed):
    return reference.round_rows(x, 127, None if fixed is None else torch.tensor([fixed]))


@pytest.mark.parametrize("tokens", [1, 7, 16, 33, 64, 65, 300])
@pytest.mark.parametrize(("bits", "groups"), [(8, 1), (8, 5), (8, 10), (4, 1), (4, 5), (4, 10)])
def test_products_are_those_of_fp64(bits, groups, tokens):
    x, w = integer_gpu.sample(bits, groups, tokens, CUDA)
    whole = w.unpacked() if isinstance(w, PackedIntegers) else w
    bias = torch.randn(140, device=CUDA)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        y = integer_gpu.kernel_product(x, w, bias, dtype)
        assert torch.equal(y, reference.integer_product(x, whole, bias, dtype))


def test_the_library_and_the_kernel_have_the_same_bits():
    x, w = integer_gpu.sample(8, 1, measured.library_tokens(CUDA), CUDA)
    w = type(w)(w.values[:136].contiguous(), w.scales[:136].contiguous(), w.group, w.limit)
    x = Codes(x.values, torch.rand_like(x.scale), 127)
    assert integer_gpu.takes_library(x, w)
    y = integer_gpu.library_product(x, w, None, torch.float16)
    assert torch.equal(y, integer_gpu.kernel_product(x, w, None, torch.float16))
