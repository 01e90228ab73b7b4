"""A resident model on a GPU has the weights, and the size, that it has on a CPU."""

import pytest
import torch

from quantizers.kernels import proving
from quantizers.resident import ResidentModel
from quantizers.setting import Setting
from tests.quantizers.tiny_models import KNOWN, tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

CONFIGS = [
    Setting.make(4, "float", block_size=64),
    Setting.make(3, "quantile", block_size=32, outlier_fraction=0.05),
    Setting.make(8, "dynamic", block_size=None, scope="all"),
    Setting.make(5, "int", block_size=48, centered=True),
]


def parameters(model):
    return {name: p.detach().cpu() for name, p in model.named_parameters()}


@pytest.mark.parametrize("load_dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", KNOWN)
def test_weights_and_bits_are_those_of_the_cpu(name, load_dtype):
    here = ResidentModel(tiny_model(name), load_dtype, torch.float32)
    there = ResidentModel(tiny_model(name).cuda(), load_dtype, torch.float32)
    original = parameters(there.model)
    for setting in CONFIGS:
        assert here.apply(setting) == there.apply(setting)
        own = parameters(there.model)
        for key, expected in parameters(here.model).items():
            assert torch.equal(own[key], expected), key
    there.undo()
    assert all(torch.equal(p, original[key]) for key, p in parameters(there.model).items())
    assert proving.failures() == {}
