import pytest
import torch

from quantizers.blockwise import dequantize, quantize, residual
from quantizers.codebooks import codebook, quantile
from quantizers.granularity import Granularity
from quantizers.outliers import dequantize_matrix, outlier_columns, quantize_matrix, unit_stds
from quantizers.setting import Setting


def test_the_units_of_largest_std_and_ties_to_the_lower_index():
    stds = torch.tensor([1.0, 3.0, 2.0, 3.0, 3.0, 0.5])
    assert outlier_columns(stds, 0.1).tolist() == [1]
    assert outlier_columns(stds, 0.3).tolist() == [1, 3]
    assert outlier_columns(stds, 0.6).tolist() == [1, 2, 3, 4]
    assert outlier_columns(stds, 0.0).tolist() == []


@pytest.mark.parametrize(
    ("fraction", "h", "count"), [(0.07, 100, 7), (0.02, 50, 1), (0.02, 128, 3), (0.99, 8, 8)]
)
def test_count_is_the_decimal_ceiling(fraction, h, count):
    assert len(outlier_columns(torch.rand(h), fraction)) == count


def test_unit_stds():
    w = torch.randn(3000, 7)
    torch.testing.assert_close(unit_stds(w), w.double().std(1, correction=0))


@pytest.mark.parametrize("data_type", ["int", "float", "dynamic", "quantile"])
@pytest.mark.parametrize("centered", [False, True])
def test_columns_leave_before_blocking_and_come_back(data_type, centered):
    w = (torch.randn(20, 33, generator=torch.Generator().manual_seed(3)) * 0.1).half()
    columns = torch.tensor([0, 7, 32])
    w[:, columns] *= 50
    setting = Setting.make(4, data_type, block_size=64, centered=centered)
    q = quantize_matrix(w, setting, columns)
    out = dequantize_matrix(q)
    rest = [i for i in range(33) if i not in (0, 7, 32)]
    assert torch.equal(out[:, columns], w[:, columns])
    body = w[:, rest]
    table = (
        quantile(4, residual(body, Granularity(64), centered))
        if data_type == "quantile"
        else codebook(data_type, 4)
    )
    assert torch.equal(
        out[:, rest], dequantize(quantize(body, table, 4, Granularity(64), centered))
    )
    n_q = 20 * 30
    assert q.bytes_stored == (
        4 * -(-n_q * 4 // 32) + 2 * -(-n_q // 64) * (1 + centered) + 2 * 3 * 20 + 4 * 3
    )


def test_quantile_table_follows_the_residual_when_centered():
    """A table of the raw weights would be useless: all of them lie near 5."""
    w = (torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) * 0.1 + 5).half()
    out = dequantize_matrix(quantize_matrix(w, Setting.make(4, "quantile", centered=True)))
    assert (out.float() - w.float()).abs().mean() < 0.02


def test_all_columns_kept():
    w = torch.randn(5, 6).half()
    q = quantize_matrix(w, Setting.make(3, "quantile", block_size=64), torch.arange(6))
    assert torch.equal(dequantize_matrix(q), w)
    assert q.bytes_stored == 2 * 30 + 4 * 6


def test_a_bad_kept_column_names_the_matrix():
    w = torch.randn(5, 6)
    w[2, 3] = 1e5
    with pytest.raises(ValueError, match="fc1.weight: a 16-bit column"):
        quantize_matrix(w, Setting.make(3, "int"), torch.tensor([3]), name="fc1.weight")
