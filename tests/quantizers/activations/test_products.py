import pytest
import torch

from quantizers.activations.codes import tensor_codes, token_codes
from quantizers.activations.products import integer_weight
from quantizers.integers import Codes
from quantizers.kernels import integer_product
from quantizers.outliers import dequantize_matrix, quantize_matrix
from quantizers.setting import Setting

G = torch.Generator().manual_seed(0)


def test_codes_are_symmetric_with_halves_to_even():
    x = torch.tensor([[127.0, 0.5, 1.5, -2.5, -127.0], [0.0] * 5, [1e-44, 0, 0, 0, 0]])
    codes = token_codes(x, 8)
    assert codes.values[0].tolist() == [127, 0, 2, -2, -127]
    assert codes.scale[:2].flatten().tolist() == [1, 1]
    assert codes.values[1].tolist() == [0] * 5 and torch.isfinite(codes.dequantized).all()
    four = tensor_codes(torch.tensor([[3.5, 100.0, -100.0, 0.2]]), 4, 7.0)
    assert four.values.tolist() == [[4, 7, -7, 0]] and four.limit == 7
    assert tensor_codes(x[1:2], 8, 0.0).scale.tolist() == [[1]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_token_that_is_not_finite_stays_so_alone(bad):
    x = torch.ones(2, 3)
    x[0, 1] = bad
    for codes in (token_codes(x, 8), tensor_codes(x, 8, 1.0)):
        assert torch.isnan(codes.dequantized[0]).all()
        assert torch.isfinite(codes.dequantized[1]).all()


def reference(codes: Codes, packed, rows, columns):
    """s_x sum_g s_wg (X_q W_q)_g in int64, and fp64 for the scales."""
    q = packed.body
    table = q.codebook * (2 ** (q.bits - 1) - 1)
    dense = dequantize_matrix(packed).double()
    size = q.blocks.size
    flat = torch.arange(rows * columns).view(rows, columns)
    owner = (
        flat // size
        if q.blocks.equal
        else flat // columns * q.blocks.a_row + flat % columns // size
    )
    scales = q.absmax.double()[owner] / (2 ** (q.bits - 1) - 1)
    values = torch.round(dense / scales)
    assert values.abs().max() <= table.max()
    result = torch.zeros(len(codes.values), rows, dtype=torch.float64)
    for block in owner.unique():
        inside = owner == block
        part = codes.values.long() @ (values * inside).long().T
        result += part * (q.absmax.double()[block] / (2 ** (q.bits - 1) - 1))
    return result * codes.scale.double()


@pytest.mark.parametrize("block", ["row", {"group": 16}, {"group": 20}, 16, None, 96])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_product_is_that_of_integers(block, bits):
    weight = torch.randn(6, 48, generator=G)
    packed = quantize_matrix(weight, Setting.make(bits, "int", block_size=block))
    integers = integer_weight(packed, "int")
    x = token_codes(torch.randn(9, 48, generator=G), 8)
    found = integer_product(x, integers)
    torch.testing.assert_close(found.double(), reference(x, packed, 6, 48), rtol=2e-6, atol=1e-6)
    changed = x.values.clone()
    changed[4, 7] += 1 if changed[4, 7] < 127 else -1
    other = integer_product(Codes(changed, x.scale, 127), integers)
    assert (other != found).any(1).tolist() == [row == 4 for row in range(9)]


def test_with_one_scale_a_row_the_product_is_the_int64_reference_bit_for_bit():
    weight = torch.randn(8, 2100, generator=G)
    packed = quantize_matrix(weight, Setting.make(8, "int", block_size="row"))
    w = integer_weight(packed, "int")
    x = tensor_codes(torch.randn(5, 2100, generator=G), 8, 2.0)
    sums = x.values.long() @ w.values.long().T
    assert torch.equal(integer_product(x, w), sums.float() * w.scales.T * x.scale)
    torch.testing.assert_close(w.values * w.scales, dequantize_matrix(packed))


@pytest.mark.parametrize(
    ("data_type", "factors"),
    [("float", {}), ("int", {"centered": True}), ("int", {"block_size": 40}), ("dynamic", {})],
)
def test_what_is_not_a_product_of_integers(data_type, factors):
    setting = Setting.make(4, data_type, **({"block_size": 16} | factors))
    packed = quantize_matrix(torch.randn(6, 48, generator=G), setting)
    assert integer_weight(packed, data_type) is None
    kept = quantize_matrix(torch.randn(6, 48), Setting.make(4, "int"), torch.tensor([3]))
    assert integer_weight(kept, "int") is None
