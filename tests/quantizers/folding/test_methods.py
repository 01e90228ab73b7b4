import pytest
import torch

from quantizers.blockwise import dequantize, quantize
from quantizers.calibration import Statistics
from quantizers.codebooks import codebook
from quantizers.folding.awq import RATIOS, awq
from quantizers.folding.logarithmic import logarithmic
from quantizers.folding.method import Method, folding_text
from quantizers.folding.smoothquant import smoothquant


def statistics(maxima):
    m = torch.tensor(maxima)
    return Statistics(1, m, m, torch.zeros(0), torch.eye(len(m)))


def test_smoothquant_is_the_papers_formula():
    x = statistics([4.0, 16.0])
    readers = [torch.tensor([[0.5, -4.0], [-1.0, 1.0]]), torch.tensor([[0.2, 2.0]])]
    assert smoothquant(x, readers, 0.5).tolist() == [2, 2]
    assert smoothquant(x, readers, 1.0).tolist() == [4, 16]
    assert smoothquant(x, readers, 0.0).tolist() == [1, 0.25]


def test_logarithmic_is_equation_1():
    s = logarithmic(statistics([1.0, 14.0, 62.0, 254.0]))
    assert s.tolist() == pytest.approx([0.63093, 3.5, 10.3333, 31.75], rel=1e-5)
    half = logarithmic(statistics([14.0]), alpha=0.5)
    assert half.tolist() == pytest.approx([7.0])
    assert logarithmic(statistics([14.0]), alpha=0.0).tolist() == [14]


def test_channels_at_zero_are_left_alone():
    dead = statistics([0.0, 9.0, 4.0])
    weights = [torch.tensor([[2.0, 0.0, 1.0]])]
    assert smoothquant(dead, weights).tolist() == [1, 1, 2]
    assert logarithmic(dead)[0] == 1


@pytest.mark.parametrize(
    ("spelled", "text"),
    [
        ("none", "none"),
        (None, "none"),
        ("smoothquant", "smoothquant 0.5"),
        ({"smoothquant": 0.85}, "smoothquant 0.85"),
        ({"logarithmic": 1}, "logarithmic 1.0"),
        ("logarithmic 0.5", "logarithmic 0.5"),
        ("awq", "awq"),
    ],
)
def test_spellings(spelled, text):
    assert folding_text(spelled) == text == folding_text(text)
    if text != "none":
        assert str(Method.parse(text)) == text


@pytest.mark.parametrize(
    ("spelled", "reason"),
    [
        ("smooth", "folding: 'smooth' is not one of none, smoothquant, logarithmic, awq"),
        ({"awq": {}}, "folding: {'awq': {}} is not one of"),
        ({"smoothquant": 2.5}, "folding: smoothquant takes an alpha from 0 to 2, not 2.5"),
        ({"logarithmic": True}, "folding: logarithmic takes an alpha from 0 to 2, not True"),
        ({"smoothquant": 0.5, "logarithmic": 1}, "is not one of"),
        ("smoothquant x", "folding: 'smoothquant x' is not like"),
        (3, "folding: 3 is not one of"),
    ],
)
def test_what_is_no_folding_is_one_line(spelled, reason):
    with pytest.raises(ValueError) as error:
        folding_text(spelled)
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_awq_takes_the_ratio_of_least_output_error():
    """Against a plain search on the activations themselves."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 32, generator=generator) * torch.logspace(-1, 2, 32)
    readers = [torch.randn(16, 32, generator=generator) for _ in range(2)]
    table = codebook("int", 3)

    def rounded(weight):
        return dequantize(quantize(weight.contiguous(), table, 3))

    mean = x.abs().mean(0)
    seen = Statistics(400, x.abs().amax(0), mean, torch.zeros(0), 2 / 400 * x.T @ x)
    errors = {}
    for ratio in RATIOS:
        s = mean**ratio / (mean.max() ** ratio * mean.min() ** ratio) ** 0.5
        errors[ratio] = sum(
            (x @ (rounded(w * s) / s - w).T).double().square().sum().item() for w in readers
        )
    best = min(errors, key=errors.get)
    assert best > 0 and errors[best] < 0.8 * errors[0]
    expected = mean**best / (mean.max() ** best * mean.min() ** best) ** 0.5
    torch.testing.assert_close(awq(seen, readers, rounded), expected, rtol=1e-4, atol=0)
    dead = Statistics(
        400, x.abs().amax(0), mean * (torch.arange(32) > 0), seen.token_max, seen.hessian
    )
    assert awq(dead, readers, rounded)[0] == 1
