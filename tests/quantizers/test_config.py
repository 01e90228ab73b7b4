import json

import pytest

from quantizers.config import QuantConfig


@pytest.mark.parametrize(
    ("settings", "at_fault"),
    [
        ({"bits": 1}, "bits"),
        ({"bits": 17}, "bits"),
        ({"bits": 4.0}, "bits"),
        ({"bits": True}, "bits"),
        ({"bits": 4}, "data_type"),
        ({"bits": 4, "data_type": "nf4"}, "data_type"),
        ({"bits": 16, "data_type": "nf4"}, "data_type"),
        ({"bits": 4, "data_type": "float", "exponent_bits": 4}, "exponent_bits"),
        ({"bits": 4, "data_type": "float", "exponent_bits": 0}, "exponent_bits"),
        ({"bits": 4, "data_type": "int", "exponent_bits": 2}, "exponent_bits"),
        ({"bits": 4, "data_type": "int", "block_size": 0}, "block_size"),
        ({"bits": 4, "data_type": "int", "block_size": 64.0}, "block_size"),
        ({"bits": 4, "data_type": "int", "centered": "no"}, "centered"),
        ({"bits": 4, "data_type": "int", "outlier_fraction": 1.0}, "outlier_fraction"),
        ({"bits": 4, "data_type": "int", "outlier_fraction": -0.1}, "outlier_fraction"),
        ({"bits": 4, "data_type": "int", "outlier_fraction": float("nan")}, "outlier_fraction"),
        ({"bits": 4, "data_type": "int", "scope": "head"}, "scope"),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(settings, at_fault):
    with pytest.raises(ValueError) as error:
        QuantConfig.make(**settings)
    assert str(error.value).startswith(at_fault)
    assert "\n" not in str(error.value)


def test_default_exponent_bits_of_every_width():
    chosen = {k: QuantConfig.make(k, "float").exponent_bits for k in range(2, 16)}
    assert chosen == {2: 1, 3: 2, 4: 2, 5: 2, 6: 3} | {k: 4 for k in range(7, 16)}
    assert QuantConfig.make(8, "float", exponent_bits=7).exponent_bits == 7


def test_16_bit_is_one_baseline_whatever_else_is_set():
    plain = QuantConfig.make(16)
    dressed = QuantConfig.make(
        16, "float", block_size=64, centered=True, outlier_fraction=0.1, scope="all"
    )
    assert dressed == plain
    assert (plain.method, plain.bits_per_param) == ("none", 16)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"bits": 4}, 4),
        ({"bits": 4, "block_size": 64}, 4.25),
        ({"bits": 3, "block_size": 64, "centered": True}, 3.5),
        ({"bits": 3, "block_size": 128, "outlier_fraction": 0.02}, 3 + 0.125 + 0.26),
    ],
)
def test_nominal_bits_per_parameter(settings, expected):
    config = QuantConfig.make(data_type="int", **settings)
    assert config.bits_per_param == pytest.approx(expected)
    assert config.method == "rtn"


def test_dict_is_canonical_json():
    config = QuantConfig.make(4, "int", block_size=64, outlier_fraction=0)
    assert json.dumps(config.as_dict()) == (
        '{"bits": 4, "data_type": "int", "exponent_bits": null, "block_size": 64, '
        '"centered": false, "outlier_fraction": 0.0, "scope": "linear", "method": "rtn"}'
    )
