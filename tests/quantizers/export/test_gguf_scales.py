"""Which of our integers in blocks of 32 GGUF's Q4_0 and Q8_0 hold: README's shares."""

import pytest
import torch

from quantizers.codebooks import integer


@pytest.mark.parametrize(
    ("dtype", "bits", "same"),
    [
        (torch.float16, 4, 0.53),
        (torch.float16, 8, 0.03),
        (torch.bfloat16, 4, 1.0),
        (torch.bfloat16, 8, 0.19),
    ],
)
def test_an_fp16_scale_gives_our_weights(dtype: torch.dtype, bits: int, same: float) -> None:
    """Of every block constant of one binade, with absmax / top in fp16: it times each code, rounded
    as the weights are, beside the codebook's value times absmax."""
    fraction = {torch.float16: 10, torch.bfloat16: 7}[dtype]
    absmax = (2.0**-4 * (1 + torch.arange(2**fraction) / 2**fraction)).to(dtype).float()
    top = 2 ** (bits - 1) - 1
    ours = (integer(bits)[None] * absmax[:, None]).to(dtype)
    codes = torch.arange(-top, top + 1).float()
    scale = (absmax / top).half().float()
    held = ((scale[:, None] * codes).to(dtype) == ours).all(1)
    assert round(float(held.float().mean()), 2) == same
