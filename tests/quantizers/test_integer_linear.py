"""Models whose linear layers multiply integers: the same function as a resident model's."""

import pytest
import torch

from quantizers.activations.policy import SiteFormat
from quantizers.activations.products import integer_weight, packed_integers
from quantizers.codebooks import codebook
from quantizers.data_types import BYTE_TYPES
from quantizers.integer_linear import IntegerLinear, pack_integers
from quantizers.outliers import dequantize_matrix, quantize_matrix
from quantizers.resident import ResidentModel
from quantizers.setting import Setting
from tests.quantizers.tiny_models import tiny_model

SETTINGS = [
    Setting.make(8, "int", block_size="row", activations={"token": 8}),
    Setting.make(4, "int", block_size={"group": 32}, activations={"token": 8}),
    Setting.make(4, "float-int8", block_size="row", activations={"token": 8}),
    Setting.make(8, "int", block_size="row", activations={"decomposed": {"threshold": 2.0}}),
]


@torch.no_grad()
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.label)
def test_logits_are_those_of_the_resident_model(setting):
    tokens = torch.arange(12).view(2, 6)
    resident = ResidentModel(tiny_model("gpt_neox"))
    resident.apply(setting)
    expected = resident.model(tokens).logits
    assert resident.arithmetic == "integer"
    model = tiny_model("gpt_neox").half().float()  # as a checkpoint of 16 bit
    layers = pack_integers(model, setting)
    found = model.to(torch.float32)(tokens).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert all(layer.values.dtype == torch.int8 for layer in layers)
    twice = setting.activation_format.name == "decomposed"
    assert all((layer.original is not None) == twice for layer in layers)


def test_what_cannot_be_packed_is_said():
    for setting, why in [
        (Setting.make(4, "int", block_size=64), "rounded activations"),
        (Setting.make(4, "float", block_size=64, activations={"token": 8}), "as integers"),
    ]:
        with pytest.raises(ValueError, match=why):
            pack_integers(tiny_model("gpt_neox"), setting)


@pytest.mark.parametrize("data_type", BYTE_TYPES)
def test_values_of_byte_types_are_whole_times_a_scale(data_type):
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    packed = quantize_matrix(weight, Setting.make(4, data_type, block_size=32))
    integers = integer_weight(packed, data_type)
    dense = (integers.values.view(6, 2, 32) * integers.scales[..., None]).view(6, 64)
    torch.testing.assert_close(dense, dequantize_matrix(packed), rtol=1e-6, atol=0)
    four = packed_integers(packed, data_type)
    assert torch.equal(four.unpacked().values, integers.values)
    assert torch.equal(four.scales, integers.scales)
    assert packed_integers(quantize_matrix(weight, Setting.make(3, data_type)), data_type) is None


def test_byte_types_are_types_of_their_own():
    table, rounded = codebook("float", 4), codebook("float-int8", 4)
    assert torch.equal(rounded * 127, torch.round(table * 127))
    assert Setting.make(4, "float-int8").exponent_bits == 2
    assert Setting.make(4, "float-int8").identity() != Setting.make(4, "float").identity()
    with pytest.raises(ValueError, match="float-int8 takes 2 to 8 bits"):
        Setting.make(9, "float-int8")


def test_types_do_not_change_but_devices_may():
    weight = torch.randn(8, 64)
    setting = SETTINGS[0]
    packed = quantize_matrix(weight, setting)
    layer = IntegerLinear(
        integer_weight(packed, "int"), SiteFormat(setting.activation_format), torch.zeros(8)
    )
    assert layer.half().scales.dtype == torch.float32
    assert layer.weight.values is layer.values  # no second copy
    assert layer(torch.randn(2, 3, 64).half()).dtype == torch.float16


def test_packed_and_whole_weights_multiply_alike():
    four = Setting.make(4, "int", block_size={"group": 32}, activations={"token": 8})
    packed = quantize_matrix(torch.randn(8, 64), four)
    x, bias = torch.randn(2, 3, 64), torch.randn(8)
    layers = [
        IntegerLinear(make(packed, "int"), SiteFormat(four.activation_format), bias)
        for make in (packed_integers, integer_weight)
    ]
    assert torch.equal(layers[0](x), layers[1](x))
    assert layers[0].words.nbytes == 8 * 64 // 2
