"""KBitLinear: the dequantized weights' results from nothing but the packed form."""

import copy

import pytest
import torch

from quantizers.kernels import multiply
from quantizers.linear import KBitLinear, pack_linears
from quantizers.outliers import dequantize_matrix, quantize_matrix
from quantizers.resident import ResidentModel
from quantizers.setting import Setting
from tests.quantizers.tiny_models import CONFIGS, logits, tiny_model

CONFIG = Setting.make(4, "float", block_size=16)


def layer(setting=CONFIG, columns=None, bias=True, shape=(24, 32)):
    torch.manual_seed(1)
    quantized = quantize_matrix(torch.randn(shape).half(), setting, columns)
    return KBitLinear(quantized, torch.randn(shape[0]) if bias else None), quantized


@pytest.mark.parametrize("bits", [2, 3, 5, 8, 11])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("columns", [None, torch.tensor([3, 31])], ids=["plain", "outliers"])
def test_forward_is_the_product_with_the_dequantized_matrix(bits, centered, columns):
    setting = Setting.make(bits, "int", block_size=16, centered=centered)
    module, quantized = layer(setting, columns)
    x = torch.randn(2, 3, 32)
    expected = torch.nn.functional.linear(
        x, dequantize_matrix(quantized).float(), module.bias.float()
    )
    assert torch.equal(module(x), expected)


def test_identity_gives_the_dequantized_matrix_exactly():
    module, quantized = layer(bias=False)
    assert torch.equal(module(torch.eye(32)).T, dequantize_matrix(quantized).float())


@pytest.mark.parametrize("name", CONFIGS)
def test_a_packed_model_computes_what_the_sweep_computes(name):
    setting = Setting.make(4, "quantile", block_size=8)
    packed, resident = tiny_model(name), ResidentModel(tiny_model(name))
    for parameter in packed.parameters():
        parameter.data = parameter.data.half().float()
    pack_linears(packed, setting)
    resident.apply(setting)
    assert torch.equal(logits(packed), logits(resident.model))


def test_outliers_are_those_of_the_sweep():
    setting = Setting.make(3, "float", block_size=16, outlier_fraction=0.1)
    packed, resident = tiny_model("llama"), ResidentModel(tiny_model("llama"))
    for parameter in packed.parameters():
        parameter.data = parameter.data.half().float()
    layers = pack_linears(packed, setting)
    assert sum(module.matrix.columns.numel() for module in layers) > 0
    resident.apply(setting)
    assert torch.equal(logits(packed), logits(resident.model))


@pytest.mark.parametrize("data_type", ["float", "quantile"])
def test_memory_is_the_counted_bytes(data_type):
    model = tiny_model("gpt_neox")
    setting = Setting.make(3, data_type, block_size=16, centered=True, outlier_fraction=0.05)
    counted = ResidentModel(copy.deepcopy(model)).apply(setting).quantized_bits // 8
    layers = pack_linears(model, setting)
    biases = sum(module.bias.nbytes for module in layers)
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for module in layers
        for tensor in (*module.buffers(), *module.parameters())
        if tensor.numel()
    }
    assert sum(storages.values()) == counted + biases
    assert not [name for module in layers for name, _ in module.named_parameters()]


def test_types_stay_when_the_model_changes_type():
    module, quantized = layer()
    expected = module(torch.ones(32))
    module.to(torch.bfloat16)
    assert module.matrix.body.codebook.dtype == torch.float32
    assert module.matrix.body.absmax.dtype == module.absmax.dtype == torch.float16
    assert torch.equal(module(torch.ones(32)), expected)


def test_scope_all_and_unknown_wiring_are_refused():
    with pytest.raises(ValueError, match="scope"):
        pack_linears(tiny_model("opt"), Setting.make(4, "int", scope="all"))
    with pytest.raises(ValueError, match="gemma"):
        pack_linears(tiny_model("gemma"), Setting.make(4, "int", outlier_fraction=0.1))


def test_sixteen_bit_changes_nothing():
    assert pack_linears(tiny_model("opt"), Setting.make(16)) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(2, 31)}, "x: must have 32 columns"),
        ({"x": torch.ones(2, 32, dtype=torch.int32)}, "x: must be float16"),
        ({"x": torch.ones(2, 32, device="meta")}, "x: is on meta"),
        ({"bias": torch.ones(23)}, "bias: has shape"),
        ({"bias": torch.ones(24, device="meta")}, "bias: is on meta"),
    ],
)
def test_arguments_that_disagree(change, message):
    _, quantized = layer()
    with pytest.raises(ValueError, match=message):
        multiply(**{"x": torch.ones(2, 32), "q": quantized.body, **change})
    with pytest.raises(ValueError, match="31 columns"):
        layer()[0](torch.ones(31))


def test_a_layer_goes_where_its_model_goes():
    """The value it multiplies with, and what torch knows of it, are the same tensors."""
    module, quantized = layer(columns=torch.tensor([3]))
    moved = copy.deepcopy(module)._apply(torch.clone)  # as `to` does with another device
    assert moved.matrix.body.words is moved.words and moved.matrix.kept is moved.kept
    assert moved.words is not module.words and module.words is quantized.body.words
    assert torch.equal(moved(torch.eye(32)), module(torch.eye(32)))
