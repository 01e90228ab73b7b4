from fractions import Fraction

import numpy as np
import pytest
import torch

from quantizers import codebooks
from quantizers.blockwise import dequantize, quantize
from quantizers.granularity import Granularity

ALL_BITS = range(2, 16)


def mirrored(positive):
    return sorted({sign * value for value in positive for sign in (-1, 1)})


GOLDEN = {
    ("int", 2, None): [-1, 0, 1],
    ("int", 3, None): [-1, -2 / 3, -1 / 3, 0, 1 / 3, 2 / 3, 1],
    ("float", 2, None): [-1, 0, 1],
    ("float", 3, None): mirrored([0, 0.25, 0.5, 1]),
    # E2M1: the subnormal 0.5 lies halfway to the smallest normal 1.
    ("float", 4, None): mirrored([v / 6 for v in (0, 0.5, 1, 1.5, 2, 3, 4, 6)]),
    # E3M0: 0 and seven powers of two.
    ("float", 4, 3): mirrored([0] + [2.0**-i for i in range(7)]),
    # E1M2: bias 1, everything evenly spaced up to 1.75 x 2.
    ("float", 4, 1): mirrored([i / 7 for i in range(8)]),
    ("dynamic", 2, None): [-0.55, 0, 0.55, 1],
    ("dynamic", 3, None): [-0.775, -0.325, -0.055, 0, 0.055, 0.325, 0.775, 1],
    ("dynamic", 4, None): mirrored([0, 0.0055, 0.0325, 0.0775, 0.2125, 0.4375, 0.6625, 0.8875])
    + [1],
}


@pytest.mark.parametrize("key", GOLDEN, ids=str)
def test_values_computed_by_hand(key):
    table = codebooks.codebook(*key)
    np.testing.assert_array_equal(table.numpy(), np.array(GOLDEN[key], np.float32))


@pytest.mark.parametrize("bits", ALL_BITS)
def test_shape_of_every_table(bits):
    tables = {"int": codebooks.integer(bits), "dynamic": codebooks.dynamic(bits)}
    tables |= {f"E{e}": codebooks.floating(bits, e) for e in range(1, bits)}
    tables["quantile"] = codebooks.quantile(bits, torch.randn(50_000))
    for name, table in tables.items():
        assert table.dtype == torch.float32
        assert len(table) <= 2**bits, name
        assert (table.diff() > 0).all(), name
        assert table.abs().max() == 1, name
        assert (table == 0).sum() == 1, name
    assert len(tables["int"]) == 2**bits - 1
    assert len(tables["dynamic"]) == 2**bits
    assert len(tables[f"E{min(4, bits - 1)}"]) == 2**bits - 1


@pytest.mark.parametrize(("bits", "e_bits"), [(5, 2), (6, 3), (8, 4), (8, 5), (8, 2), (7, 6)])
def test_float_follows_the_ieee_formula(bits, e_bits):
    """In exact fractions, code by code."""
    m_bits, bias = bits - 1 - e_bits, 2 ** (e_bits - 1)
    positive = []
    for e in range(2**e_bits):
        for f in range(2**m_bits):
            fraction = Fraction(f, 2**m_bits)
            positive.append(
                Fraction(2) ** (e - bias) * (1 + fraction)
                if e
                else Fraction(2) ** (1 - bias) * fraction
            )
    expected = mirrored([value / max(positive) for value in positive])
    table = codebooks.floating(bits, e_bits)
    np.testing.assert_array_equal(table.numpy(), np.array([float(v) for v in expected], np.float32))


def test_dynamic_at_8_bit():
    """64 values in each of +-[0.1, 1], then 32, 16, ... one decade lower each."""
    table = codebooks.dynamic(8).double().numpy()
    in_decade = [((table > 10.0**-z / 10) & (table < 10.0**-z)).sum() for z in range(7)]
    assert in_decade == [64, 32, 16, 8, 4, 2, 1]
    assert table.max() == 1
    assert table[-2] == pytest.approx(1 - 0.9 / 128)  # not renormalized
    assert table[0] == -table[-2]


def test_quantile_by_hand():
    # Q(p) = 4p on 0..4, so q = 1.2, 2, 2.8 at k = 2.
    table = codebooks.quantile(2, torch.tensor([4.0, 0, 2, 1, 3]))
    np.testing.assert_allclose(table.numpy(), [0, 1.2 / 2.8, 2 / 2.8, 1], rtol=1e-7)


@pytest.mark.parametrize("bits", [2, 4, 8, 15])
def test_quantile_follows_the_formula(bits):
    x = np.random.default_rng(bits).standard_t(4, 70_001).astype(np.float16).astype(np.float32)
    edges = np.quantile(x.astype(np.float64), np.arange(1, 2**bits + 1) / (2**bits + 1))
    values = (edges[:-1] + edges[1:]) / 2
    expected = np.unique(np.append(values / np.abs(values).max(), 0).astype(np.float32))
    table = codebooks.quantile(bits, torch.from_numpy(x)).numpy()
    assert len(table) == pytest.approx(len(expected), abs=2)  # fp64 noise may split a duplicate
    gap = np.abs(table[:, None] - expected[None, :: max(1, len(expected) // 100)]).min(0)
    assert gap.max() < 1e-7


def test_quantile_merges_duplicates_and_survives_constant_tensors():
    two = codebooks.quantile(4, torch.tensor([-1.0, 2.0]).repeat_interleave(500))
    assert two.tolist() == [-0.5, 0, 1] or len(two) == 4  # the bin at the jump may average both
    assert codebooks.quantile(4, torch.zeros(9)).tolist() == [0]
    assert codebooks.quantile(4, torch.empty(0)).tolist() == [0]
    assert codebooks.quantile(4, torch.full((9,), -3.0)).tolist() == [-1, 0]
    with pytest.raises(ValueError, match="NaN or inf"):
        codebooks.quantile(4, torch.tensor([1.0, float("nan")]))


def test_quantile_of_more_elements_than_torch_quantile_takes():
    n = 2**24 + 11
    x = (torch.arange(n, dtype=torch.int64) * 1_000_003 % n).float()  # 0..n-1 in another order
    # Q(p) = p (n-1): q_i = (i + 1/2) (n-1) / 9, the largest i is 7.
    expected = [0] + [(i + 0.5) / 7.5 for i in range(1, 8)]
    np.testing.assert_allclose(codebooks.quantile(3, x).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("bits", ALL_BITS)
def test_rounding_is_nearest_and_ties_go_down(bits):
    table = codebooks.codebook("int" if bits % 2 else "dynamic", bits)
    x = torch.empty(2000).uniform_(-1.1, 1.1, generator=torch.Generator().manual_seed(bits))
    indices = codebooks.round_to_codebook(x, table)
    error = (x.double() - table[indices].double()).abs()
    for neighbour in (-1, 1):
        other = table[(indices + neighbour).clamp(0, len(table) - 1)].double()
        assert (error <= (x.double() - other).abs() + 1e-7).all()
    ties = codebooks.midpoints_of(table)
    assert torch.equal(codebooks.round_to_codebook(ties, table), torch.arange(len(ties)))
    above = torch.nextafter(ties, torch.tensor(2.0))
    assert torch.equal(codebooks.round_to_codebook(above, table), torch.arange(len(ties)) + 1)


@pytest.mark.parametrize(("data_type", "expected"), [("float", 0.01118), ("int", 0.01161)])
def test_error_on_normal_data_at_4_bit(data_type, expected):
    """Known mean squared errors on N(0, 1) in blocks of 64."""
    x = torch.randn(2**21, generator=torch.Generator().manual_seed(0))
    q = quantize(x, codebooks.codebook(data_type, 4), 4, Granularity(64))
    assert (dequantize(q) - x).square().mean().item() == pytest.approx(expected, rel=0.005)


def test_unknown_data_type():
    with pytest.raises(ValueError, match="quantile"):
        codebooks.codebook("quantile", 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bits", range(2, 9))
def test_levels_in_16_bit_are_exact_for_integers_and_floats(bits, dtype):
    for data_type in ("int", "float"):
        table = codebooks.codebook(data_type, bits)
        levels, unit = codebooks.levels_of(table, dtype)
        assert levels.dtype == dtype
        torch.testing.assert_close(levels.float() * unit, table, rtol=2.0**-22, atol=0)
        if data_type == "int":
            assert levels.tolist() == list(range(1 - 2 ** (bits - 1), 2 ** (bits - 1)))


def test_levels_of_other_tables_are_rounded():
    table = codebooks.codebook("dynamic", 4)
    for dtype in (torch.float16, torch.bfloat16):
        levels, unit = codebooks.levels_of(table, dtype)
        assert unit == 1 and torch.equal(levels, table.to(dtype))
    assert codebooks.levels_of(torch.zeros(1), torch.float16)[0].tolist() == [0]
    wide = codebooks.floating(8, 4)  # 18 powers of two: fp16 holds them, not all multiples
    levels, unit = codebooks.levels_of(wide, torch.float16)
    torch.testing.assert_close(levels.float() * unit, wide, rtol=2.0**-22, atol=0)
