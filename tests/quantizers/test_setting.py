import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from quantizers.granularity import Granularity
from quantizers.setting import SETTING_COLUMNS, Setting


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
        ({"bits": 4, "data_type": "int", "block_size": "rows"}, "block_size: 'rows' is not"),
        ({"bits": 4, "data_type": "int", "block_size": {"group": 0}}, "block_size: {'group': 0}"),
        ({"bits": 4, "data_type": "int", "block_size": {"groups": 8}}, "block_size: {'groups'"),
        ({"bits": 4, "data_type": "int", "centered": "no"}, "centered"),
        ({"bits": 4, "data_type": "int", "outlier_fraction": 1.0}, "outlier_fraction"),
        ({"bits": 4, "data_type": "int", "outlier_fraction": -0.1}, "outlier_fraction"),
        ({"bits": 4, "data_type": "int", "outlier_fraction": float("nan")}, "outlier_fraction"),
        ({"bits": 4, "data_type": "int", "scope": "head"}, "scope"),
        (
            {"bits": 4, "data_type": "int", "scales": "max"},
            "scales: 'max' is not one of absmax, cl",
        ),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(settings, at_fault):
    with pytest.raises(ValueError) as error:
        Setting.make(**settings)
    assert str(error.value).startswith(at_fault)
    assert "\n" not in str(error.value)


def test_default_exponent_bits_of_every_width():
    chosen = {k: Setting.make(k, "float").exponent_bits for k in range(2, 16)}
    assert chosen == {2: 1, 3: 2, 4: 2, 5: 2, 6: 3} | {k: 4 for k in range(7, 16)}
    assert Setting.make(8, "float", exponent_bits=7).exponent_bits == 7


def test_16_bit_is_one_baseline_whatever_else_is_set():
    plain = Setting.make(16)
    dressed = Setting.make(
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
    setting = Setting.make(data_type="int", **settings)
    assert setting.bits_per_param == pytest.approx(expected)
    assert setting.method == "rtn"


def test_identity_is_canonical_json():
    setting = Setting.make(4, "int", block_size=64, outlier_fraction=0)
    assert json.dumps(setting.identity(), sort_keys=True) == (
        '{"bits": 4, "block_size": 64, "centered": false, "data_type": "int", '
        '"exponent_bits": null, "method": "rtn", "outlier_fraction": 0.0, "scope": "linear"}'
    )


def test_a_later_field_enters_the_identity_only_where_it_is_set():
    @dataclass(frozen=True)
    class Later(Setting):
        later: str = "none"

    today = Setting.make(4, "int", block_size=64)
    assert Later(**today.row()).identity() == today.identity()
    assert Later(**today.row(), later="some").identity() == today.identity() | {"later": "some"}


@pytest.mark.parametrize("missing", [None, "", float("nan"), np.float64("nan"), pd.NA])
def test_rows_are_read_whatever_their_cells_are(missing):
    setting = Setting.make(3, "float", block_size=64, outlier_fraction=0.02, centered=True)
    as_text = {name: str(value) for name, value in setting.row().items()}
    as_numbers = setting.row() | {"bits": np.float64(3), "centered": np.bool_(True)}
    assert Setting.from_row(as_text) == Setting.from_row(as_numbers) == setting
    assert type(Setting.from_row(as_numbers).bits) is int
    tensor = Setting.make(4, "int")
    row = {"bits": 4, "data_type": "int"} | dict.fromkeys(SETTING_COLUMNS[3:], missing)
    assert Setting.from_row(row) == tensor == Setting.from_row({"bits": "4", "data_type": "int"})


def test_precisions_of_others_keep_their_numbers_and_names():
    ternary = Setting.from_row({"bits": "1.58", "data_type": "ternary", "method": "qat"})
    assert ternary.label == "1.58-bit ternary per tensor qat"
    assert ternary.bits_per_param == 1.58
    assert Setting.from_row({"bits": 4.0, "data_type": "nf4"}).label == "4-bit nf4 per tensor"
    assert Setting.from_row({"bits": 16.0, "data_type": "int"}) == Setting.make(16)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("bits", 0),
        ("bits", 32),
        ("bits", "four"),
        ("bits", None),
        ("exponent_bits", 1.5),
        ("block_size", 0),
        ("outlier_fraction", 1),
        ("centered", "maybe"),
    ],
)
def test_a_row_that_makes_no_sense_names_its_column(column, value):
    with pytest.raises(ValueError, match=f"^{column} "):
        Setting.from_row({"bits": 4, "data_type": "float", column: value})


@pytest.mark.parametrize(
    ("spelled", "granularity", "label"),
    [
        (64, Granularity(64), "4-bit int B64"),
        (None, Granularity(), "4-bit int per tensor"),
        ("row", Granularity(by_row=True), "4-bit int per row"),
        ({"group": 128}, Granularity(128, by_row=True), "4-bit int G128"),
    ],
)
def test_granularities(spelled, granularity, label):
    setting = Setting.make(4, "int", block_size=spelled)
    assert (setting.granularity, setting.label) == (granularity, label)
    assert Setting.from_row(setting.row()) == setting
    assert ("by_row" in setting.identity()) == granularity.by_row


def test_clipped_scales():
    setting = Setting.make(4, "int", block_size=64, scales="clipped")
    assert setting.label == "4-bit int B64 clipped"
    assert Setting.from_row(setting.row()) == setting
    assert setting.identity()["scales"] == "clipped"
    assert "scales" not in Setting.make(4, "int", scales="absmax").identity()


def test_gptq_and_its_options():
    plain = Setting.make(4, "int", rounding="gptq")
    assert (plain.method, plain.label) == ("gptq", "4-bit int per tensor gptq")
    assert plain.needs_statistics and not Setting.make(4, "int").needs_statistics
    assert plain.identity() == Setting.make(4, "int").identity() | {"method": "gptq"}
    other = Setting.make(4, "int", rounding={"gptq": {"order": False, "damping": 0.1}})
    assert other.label == "4-bit int per tensor gptq unordered damping 0.1"
    assert other.identity() == plain.identity() | {"gptq_order": False, "gptq_damping": 0.1}
    options = {"hessian": "sequential", "dead": "zero"}
    third = Setting.make(4, "int", rounding={"gptq": options})
    assert third.label == "4-bit int per tensor gptq sequential dead zero"
    added = {"gptq_hessian": "sequential", "gptq_dead": "zero"}
    assert third.identity() == plain.identity() | added
    for setting in (plain, other, third):
        assert Setting.from_row(setting.row()) == setting
    assert Setting.make(4, "int", rounding={"gptq": {}}) == plain
    defaults = {"order": True, "damping": 0.01, "hessian": "original", "dead": "nearest"}
    assert Setting.make(4, "int", rounding={"gptq": defaults}) == plain


def test_folding_and_activations():
    factors = {"folding": {"logarithmic": 1}, "activations": {"by_type": 8}}
    setting = Setting.make(4, "int", block_size={"group": 128}, **factors)
    assert setting.label == "4-bit int G128 folded logarithmic 1.0 A8 by_type"
    assert setting.needs_statistics and not setting.needs_hessians and not setting.is_weight_only
    assert Setting.from_row(setting.row()) == setting
    assert setting.identity()["folding"] == "logarithmic 1.0"
    assert setting.identity()["activations"] == "by_type 8"
    plain = Setting.make(4, "int", block_size=64, folding="none", activations=16)
    assert plain == Setting.make(4, "int", block_size=64)
    assert not {"folding", "activations"} & plain.identity().keys()


def test_16_bit_weights_with_rounded_activations_are_no_baseline():
    w16a8 = Setting.make(16, activations="token", block_size=64)
    assert (w16a8.label, w16a8.bits_per_param, w16a8.is_baseline) == ("16-bit A8 token", 16, False)
    assert not w16a8.needs_statistics and w16a8 != Setting.make(16)
    assert Setting.from_row(w16a8.row()) == w16a8
    as_numbers = {"bits": 16.0, "activations": 16.0, "folding": None}
    assert Setting.from_row(as_numbers).is_baseline
    with pytest.raises(ValueError, match="^folding: 'quarot'"):
        Setting.from_row({"bits": 16, "folding": "quarot"})
