import math

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from quantizers.activations.format import Activations
from quantizers.activations.layer import QuantizedInput
from quantizers.activations.policy import SiteFormat
from quantizers.activations.products import integer_weight
from quantizers.outliers import dequantize_matrix, quantize_matrix
from quantizers.setting import Setting
from quantizers.undo import UndoLog

G = torch.Generator().manual_seed(0)


def layer(kind):
    torch.manual_seed(1)
    module = nn.Linear(32, 12) if kind is nn.Linear else Conv1D(12, 32)
    module.bias.data.normal_()
    return module


def quantized(module, activations, maximum=None, data_type="int"):
    """Its module holds what is dequantized, or, decomposed, what it held."""
    weight = module.weight.detach()
    weight = weight.T.contiguous() if isinstance(module, Conv1D) else weight
    packed = quantize_matrix(weight, Setting.make(8, data_type, block_size="row"))
    integers = integer_weight(packed, data_type)
    given = dequantize_matrix(packed)
    if activations.name != "decomposed":
        with torch.no_grad():
            module.weight.copy_(given.T if isinstance(module, Conv1D) else given)
    return QuantizedInput(
        module,
        SiteFormat(activations, maximum),
        integers,
        given if integers is None and activations.name == "decomposed" else None,
    )


X = torch.randn(2, 7, 32, generator=G)
X[1, 3] = 0
X[0, 2, 5] = 30


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
@pytest.mark.parametrize("data_type", ["int", "float"])
def test_it_stands_for_the_module_and_is_close(kind, data_type):
    for activations, maximum in ((Activations("token"), None), (Activations("tensor"), 30.0)):
        module = layer(kind)
        with torch.no_grad():
            exact = module(X)
            log = UndoLog(torch.float16)
            log.set_forward(module, quantized(module, activations, maximum, data_type))
            found = module(X)
        assert found.shape == exact.shape and found.dtype == exact.dtype
        error = (found - exact).norm() / exact.norm()
        assert 1e-4 < error < (0.04 if maximum is None else 0.15)
        log.undo()
        assert "forward" not in module.__dict__


@torch.no_grad()
@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
@pytest.mark.parametrize("data_type", ["int", "float"])
def test_decomposition_ends_at_token_and_at_16_bit_bit_for_bit(kind, data_type):
    exact = layer(kind)(X)
    every = quantized(layer(kind), Activations("decomposed", threshold=0), data_type=data_type)
    assert torch.equal(every(X), exact)
    none = quantized(
        layer(kind), Activations("decomposed", threshold=math.inf), data_type=data_type
    )
    token = quantized(layer(kind), Activations("token"), data_type=data_type)
    if data_type == "int":
        assert torch.equal(none(X), token(X))
    else:  # one product takes the bias along
        torch.testing.assert_close(none(X), token(X), rtol=1e-6, atol=1e-6)
    six = quantized(layer(kind), Activations("decomposed"), data_type=data_type)
    spike = (six(X) - exact)[0, 2].norm()
    assert spike < 0.5 * (token(X) - exact)[0, 2].norm()


@torch.no_grad()
@pytest.mark.parametrize("name", ["token", "tensor", "decomposed"])
def test_a_token_depends_on_no_other(name):
    module = quantized(layer(nn.Linear), Activations(name), 3.0 if name == "tensor" else None)
    whole = module(X)
    for i in range(7):
        alone = module(X[:1, i : i + 1])
        torch.testing.assert_close(alone[0, 0], whole[0, i], rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_integers_never_meet_the_float_product(monkeypatch):
    module = layer(nn.Linear)
    integer = quantized(module, Activations("token"))
    before = integer(X)
    floating = quantized(layer(nn.Linear), Activations("token"), data_type="float")

    def refuse(*_):
        raise AssertionError("a float product")

    monkeypatch.setattr(nn.functional, "linear", refuse)
    module.weight.fill_(math.nan)
    assert torch.equal(integer(X), before)
    with pytest.raises(AssertionError, match="a float product"):
        floating(X)
