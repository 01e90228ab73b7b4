"""A packed tensor whose parts disagree cannot be made, and says which."""

from dataclasses import replace

import pytest
import torch

from quantizers.blockwise import dequantize, quantize
from quantizers.codebooks import codebook
from quantizers.granularity import ROW, TENSOR, Blocks, Granularity
from quantizers.packed import empty

META = torch.device("meta")


def example():
    torch.manual_seed(0)
    return quantize(torch.randn(200, 100).half(), codebook("float", 3), 3, Granularity(64))


BAD_TABLES = {
    "unsorted": (torch.tensor([0.0, 1.0, -1.0]), "not sorted"),
    "too long": (torch.linspace(-1, 1, 9), "9 values do not fit 3 bits"),
    "NaN": (torch.tensor([-1.0, torch.nan]), "NaN or inf"),
    "empty": (torch.empty(0), "0 values"),
    "fp64": (torch.linspace(-1, 1, 8).double(), "must be float32"),
    "a view": (torch.linspace(-1, 1, 8)[::2], "codebook: must be contiguous"),
}


@pytest.mark.parametrize("bad", BAD_TABLES)
def test_bad_tables(bad):
    table, message = BAD_TABLES[bad]
    with pytest.raises(ValueError, match=message):
        replace(example(), codebook=table)
    with pytest.raises(ValueError, match=f"fc1.weight: .*{message}"):
        quantize(torch.ones(64), table, 3, name="fc1.weight")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 1}, "bits: 1 is not in 2..15"),
        ({"bits": 16}, "bits: 16 is not in 2..15"),
        ({"bits": 4}, "20000 weights of 4 bits take 2500 words"),
        ({"shape": torch.Size((20_033,))}, "packed stream"),
        ({"words": torch.zeros(1875)}, "must be int32"),
        ({"words": torch.zeros(3750, dtype=torch.int32)[::2]}, "stream: must be contiguous"),
        ({"granularity": Granularity(32)}, "absmax: 20000 weights, B=32, have 625 constants"),
        ({"granularity": ROW}, "20000 weights, per row, have 200 constants"),
        ({"granularity": Granularity(64, True)}, "weights, groups of 64, have 400 constants"),
        ({"absmax": torch.ones(313)}, "absmax: must be float16"),
        ({"absmax": torch.ones(313, device=META).half()}, "absmax: is on meta"),
        ({"mean": torch.ones(312).half()}, "mean: 20000 weights"),
        ({"mean": torch.ones(313).bfloat16()}, "mean: is torch.bfloat16"),
        ({"mean": torch.ones(313, device=META).half()}, "mean: is on meta"),
        ({"dtype": torch.int8}, "dtype: must be float16"),
    ],
)
def test_parts_that_disagree(change, message):
    with pytest.raises(ValueError, match=message):
        replace(example(), **change)


def test_every_table_of_a_data_type_is_accepted():
    for bits in range(2, 16):
        for data_type in ("int", "float", "dynamic"):
            empty(torch.ones(10), codebook(data_type, bits), bits, TENSOR)


def test_a_size_below_1():
    with pytest.raises(ValueError, match="block size: 0 is below 1"):
        Granularity(0)


@pytest.mark.parametrize(
    ("granularity", "shape", "blocks", "count"),
    [
        (TENSOR, (4, 10), Blocks(40, 40, 40), 1),
        (Granularity(16), (4, 10), Blocks(40, 40, 16), 3),
        (Granularity(64), (4, 10), Blocks(40, 40, 64), 1),
        (ROW, (4, 10), Blocks(40, 40, 10), 4),
        (ROW, (10,), Blocks(10, 10, 10), 1),
        (ROW, (3, 4, 10), Blocks(120, 120, 10), 12),
        (Granularity(5, by_row=True), (4, 10), Blocks(40, 40, 5), 8),  # as blocks of 5
        (Granularity(4, by_row=True), (4, 10), Blocks(40, 10, 4), 12),
        (Granularity(64, by_row=True), (4, 10), Blocks(40, 40, 10), 4),
        (ROW, (0, 10), Blocks(0, 1, 1), 0),
        (Granularity(4, by_row=True), (4, 0), Blocks(0, 1, 1), 0),
        (TENSOR, (), Blocks(1, 1, 1), 1),
    ],
    ids=str,
)
def test_blocks(granularity, shape, blocks, count):
    assert granularity.blocks(shape) == blocks
    assert blocks.count == count


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize(
    "granularity", [Granularity(30, True), ROW, Granularity(20, True)], ids=str
)
def test_rows_are_quantized_each_by_itself(granularity, centered):
    w = torch.randn(7, 100, generator=torch.Generator().manual_seed(1)).half()
    q = quantize(w, codebook("int", 4), 4, granularity, centered)
    rows = [
        dequantize(quantize(row, codebook("int", 4), 4, Granularity(granularity.size), centered))
        for row in w
    ]
    assert torch.equal(dequantize(q), torch.stack(rows))
    constants = 7 * {30: 4, None: 1, 20: 5}[granularity.size]
    assert q.bytes_stored == 4 * -(-700 * 4 // 32) + 2 * constants * (1 + centered)


def test_groups_that_divide_a_row_are_blocks():
    w = torch.randn(6, 96, generator=torch.Generator().manual_seed(1)).half()
    groups, blocks = (
        quantize(w, codebook("float", 3), 3, Granularity(32, r)) for r in (True, False)
    )
    assert groups.blocks == blocks.blocks
    assert torch.equal(groups.words, blocks.words) and torch.equal(groups.absmax, blocks.absmax)
