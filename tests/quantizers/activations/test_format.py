import math

import pytest

from quantizers.activations.format import Activations, activations_text


@pytest.mark.parametrize(
    ("spelled", "text", "label"),
    [
        ("token", "token 8", "A8 token"),
        ({"token": 6}, "token 6", "A6 token"),
        ({"tensor": {"bits": 4}}, "tensor 4", "A4 tensor"),
        (
            {"decomposed": {"bits": 8, "threshold": 6}},
            "decomposed 8 threshold=6.0 outlier_weights=original",
            "A8 decomposed",
        ),
        (
            {"decomposed": {"columns": "calibrated"}},
            "decomposed 8 threshold=6.0 outlier_weights=original columns=calibrated",
            "A8 decomposed columns=calibrated",
        ),
        (
            {"decomposed": {"threshold": math.inf, "outlier_weights": "quantized"}},
            "decomposed 8 threshold=inf outlier_weights=quantized",
            "A8 decomposed threshold=inf outlier_weights=quantized",
        ),
        ({"by_type": 8}, "by_type 8", "A8 by_type"),
        ({"by_range": {"v0": 10}}, "by_range 8 v0=10.0 v1=150.0", "A8 by_range v0=10"),
    ],
)
def test_spellings(spelled, text, label):
    assert activations_text(spelled) == text == activations_text(text)
    assert str(Activations.parse(text)) == text
    assert Activations.parse(text).label == label


@pytest.mark.parametrize("spelled", [None, 16, "16"])
def test_no_quantization(spelled):
    assert activations_text(spelled) == "16"


@pytest.mark.parametrize(
    ("spelled", "reason"),
    [
        (8, "8 is not one of 16, token, tensor"),
        (True, "True is not one of"),
        ("tokens", "'tokens' is not one of"),
        ({"token": 3}, "token takes 4 to 8 bits, not 3"),
        ({"token": 8.0}, "token takes 4 to 8 bits, not 8.0"),
        ({"token": {"threshold": 6}}, "token has no option threshold"),
        ({"by_range": {"bits": 8, "v0": 150, "v1": 15}}, "v0 150 is not below v1 15"),
        ({"by_range": {"v0": -1}}, "v0 -1 is not a number from 0 on"),
        ({"decomposed": {"columns": "all"}}, "columns 'all' is not one of element, calibrated"),
        ({"decomposed": {"threshold": "6"}}, "threshold '6' is not a number"),
        ({"decomposed": {"outlier_weights": "int4"}}, "outlier_weights 'int4' is not one of"),
        ({"token": 8, "tensor": 8}, "is not one of 16"),
        ("token eight", "'token eight' is not like 'token 8'"),
    ],
)
def test_what_is_no_format_is_one_line(spelled, reason):
    with pytest.raises(ValueError) as error:
        activations_text(spelled)
    message = str(error.value)
    assert message.startswith("activations: ") and reason in message and "\n" not in message
