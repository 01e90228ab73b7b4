import pytest
import torch

from quantizers.packing import n_words, pack, unpack

SIZES = (0, 1, 31, 32, 33, 63, 64, 65, 1000)


def bit_string(words):
    """The stream as text, first bit first."""
    return "".join(f"{w & 0xFFFFFFFF:032b}"[::-1] for w in words.tolist())


@pytest.mark.parametrize("bits", range(2, 16))
def test_stream_layout_and_round_trip(bits):
    for n in SIZES:
        indices = torch.randint(
            2**bits, (n,), generator=torch.Generator().manual_seed(n), dtype=torch.int64
        )
        words = pack(indices, bits)
        assert words.dtype == torch.int32
        assert words.numel() == n_words(n, bits) == -(-n * bits // 32)
        expected = "".join(f"{i:0{bits}b}"[::-1] for i in indices.tolist())
        assert bit_string(words) == expected.ljust(32 * words.numel(), "0")
        assert torch.equal(unpack(words, bits, n), indices)


def test_words_by_hand():
    # 3 bit: 0b111 at bits 30..32 straddles the first two words.
    indices = torch.zeros(11, dtype=torch.int64)
    indices[10] = 7
    assert pack(indices, 3).tolist() == [-(2**30), 1]
