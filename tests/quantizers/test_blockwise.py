import numpy as np
import pytest
import torch

from quantizers.blockwise import dequantize, quantize, residual
from quantizers.codebooks import codebook, quantile
from quantizers.granularity import Granularity
from quantizers.packed import PackedTensor

INF, NAN = float("inf"), float("nan")


def slow_quantizer(tensor, table, block, centered):
    """Blockwise quantization in numpy, weight by weight: (codes, dequantized), fp16 only."""
    flat = tensor.numpy().flatten()
    assert flat.dtype == np.float16
    table = table.numpy()
    midpoints = [
        np.float32((a + b) / np.float32(2)) for a, b in zip(table, table[1:], strict=False)
    ]
    codes, out = [], []
    for start in range(0, len(flat), block):
        part = flat[start : start + block].astype(np.float32)
        mean = np.float32(np.float16(part.astype(np.float64).mean())) if centered else np.float32(0)
        rest = [np.float32(w - mean) for w in part]
        absmax = np.float32(np.float16(max(abs(r) for r in rest)))
        for r in rest:
            x = np.float32(r / absmax) if absmax else np.float32(0)
            code = sum(bool(m < x) for m in midpoints)
            codes.append(code)
            value = np.float32(table[code] * absmax)
            out.append(np.float16(np.float32(value + mean)) if centered else np.float16(value))
    return codes, np.array(out, np.float16).reshape(tensor.shape)


def weights(*shape, seed=0):
    """Heavy-tailed, with a zero block and a mean that is not 0."""
    x = np.random.default_rng(seed).standard_t(3, shape) * 0.02 + 0.004
    x.reshape(-1)[64:192] = 0
    return torch.from_numpy(x.astype(np.float16))


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("block", [1, 48, 64, None])
@pytest.mark.parametrize(
    ("data_type", "bits"), [("int", 3), ("float", 4), ("dynamic", 5), ("quantile", 4)]
)
def test_against_an_independent_quantizer(data_type, bits, block, centered):
    w = weights(33, 61)
    if data_type == "quantile":
        table = quantile(bits, residual(w, Granularity(block), centered))
    else:
        table = codebook(data_type, bits)
    codes, expected = slow_quantizer(w, table, block or w.numel(), centered)
    q = quantize(w, table, bits, Granularity(block), centered)
    np.testing.assert_array_equal(dequantize(q).numpy(), expected)
    stream = sum((int(word) & 0xFFFFFFFF) << 32 * i for i, word in enumerate(q.words))
    assert stream == sum(code << bits * i for i, code in enumerate(codes))


@pytest.mark.parametrize("bits", range(2, 16))
def test_every_width_size_and_block(bits):
    table = codebook("int", bits)
    spacing = 2 / (len(table) - 1)
    for n in (1, 31, 32, 33, 63, 64, 65, 1000):
        for block in (1, 3, 32, 64, 100, 2000, None):
            w = weights(n)
            q = quantize(w, table, bits, Granularity(block))
            n_blocks = -(-n // (block or n))
            assert q.words.numel() == -(-n * bits // 32)
            assert q.absmax.numel() == n_blocks
            assert q.bytes_stored == 4 * q.words.numel() + 2 * n_blocks
            bound = q.absmax.float().repeat_interleave(q.blocks.size)[:n] * spacing / 2
            error = (dequantize(q).float() - w.float()).abs()
            assert (error <= bound + w.float().abs() * 2**-11 + 1e-7).all()


def test_blocks_do_not_see_each_other():
    w = weights(1000)
    table = codebook("float", 4)
    before = dequantize(quantize(w, table, 4, Granularity(48)))
    w[500] = 60.0
    after = dequantize(quantize(w, table, 4, Granularity(48)))
    changed = (before != after).nonzero().flatten()
    assert set(changed.tolist()) <= set(range(480, 528))
    assert after[500] == 60.0


@pytest.mark.parametrize("bits", range(2, 16))
def test_a_corrupted_word_changes_exactly_the_weights_that_overlap_it(bits):
    w = torch.randn(1000, generator=torch.Generator().manual_seed(bits))
    q = quantize(w, codebook("float", bits), bits, Granularity(64))
    before = dequantize(q)
    word = q.words.numel() // 2
    q.words[word] ^= -1  # every bit of the word
    changed = (dequantize(q) != before).nonzero().flatten().tolist()
    overlap = [i for i in range(1000) if i * bits < 32 * word + 32 and (i + 1) * bits > 32 * word]
    assert changed == overlap


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("block", [64, None])
def test_nan_and_inf_name_the_tensor(bad, block):
    w = weights(10, 30)
    w[9, 29] = bad
    with pytest.raises(ValueError, match=r"layers\.3\.fc1\.weight: .*NaN or inf"):
        quantize(w, codebook("int", 4), 4, Granularity(block), name="layers.3.fc1.weight")


def test_overflow_of_the_16_bit_constants():
    table = codebook("int", 4)
    with pytest.raises(ValueError, match="w: the absmax of a block overflows float16"):
        quantize(torch.tensor([1.0, 65520.0]), table, 4, name="w")
    far_apart = torch.tensor([65504.0] * 63 + [-65504.0]).half()
    with pytest.raises(ValueError, match="absmax"):  # of the residual
        quantize(far_apart, table, 4, centered=True)
    with pytest.raises(ValueError, match="mean"):
        quantize(torch.full((8,), 7e4), table, 4, centered=True)
    assert dequantize(quantize(far_apart, table, 4)).tolist() == far_apart.tolist()


def test_absmax_is_rounded_to_16_bit_before_it_divides():
    w = torch.tensor([1.0004, 0.5])  # fp16 absmax: 1.0
    q = quantize(w, codebook("int", 2), 2)
    assert q.absmax.dtype == torch.float16
    # 0.5 / 1.0 is a tie, which goes down to 0; with the exact absmax it would too, 0.5002 not.
    assert dequantize(q).tolist() == [1.0, 0.0]
    up = torch.tensor([0.9996, 0.49985])  # fp16 absmax 0.99951..., x = 0.50009
    assert dequantize(quantize(up, codebook("int", 2), 2))[1] > 0.9
    assert quantize(w.bfloat16(), codebook("int", 2), 2).absmax.dtype == torch.bfloat16


def test_a_block_whose_absmax_rounds_to_zero_is_zeros():
    w = torch.tensor([1e-9, -1e-9, 0.5, -0.25])
    out = dequantize(quantize(w, codebook("dynamic", 8), 8, Granularity(2)))
    assert out[:2].tolist() == [0, 0]
    assert out[2:].abs().min() > 0.2
    centered = torch.full((64,), 0.125).half()
    assert torch.equal(
        dequantize(quantize(centered, codebook("int", 3), 3, Granularity(64), centered=True)),
        centered,
    )


def test_centering_helps_an_offset_block():
    w = (torch.randn(4096, generator=torch.Generator().manual_seed(1)) * 0.1 + 2).half()
    error = [
        (dequantize(quantize(w, codebook("int", 4), 4, Granularity(64), c)).float() - w.float())
        .abs()
        .mean()
        for c in (False, True)
    ]
    assert error[1] < error[0] / 4
    assert (
        quantize(w, codebook("int", 4), 4, Granularity(64), True).bytes_stored == 2048 + 2 * 2 * 64
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_shape_dtype_and_layout_come_back(dtype):
    w = torch.randn(6, 5, 7).to(dtype).transpose(0, 2)  # not contiguous
    q = quantize(w, codebook("float", 8), 8, Granularity(16))
    out = dequantize(q)
    assert isinstance(q, PackedTensor)
    assert (out.shape, out.dtype) == (w.shape, dtype)
    assert torch.allclose(out.float(), w.float(), atol=0.15)
    empty = quantize(
        torch.empty(4, 0, dtype=dtype), codebook("int", 4), 4, Granularity(64), centered=True
    )
    assert (dequantize(empty).shape, empty.bytes_stored) == ((4, 0), 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 16}, "tensor: bits: 16 is not"),
        ({"bits": 1}, "tensor: bits: 1 is not"),
        ({"bits": 3}, "tensor: codebook: 15 values do not fit 3 bits"),
        ({"bits": 4, "tensor": torch.zeros(4, dtype=torch.int8)}, "torch.int8"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        quantize(**{"tensor": torch.ones(4), "codebook": codebook("int", 4)} | arguments)
