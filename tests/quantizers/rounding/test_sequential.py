"""Sequential Hessians: inputs that come from the blocks already rounded."""

import pytest
import torch

from quantizers import calibration
from quantizers.calibration import collect
from quantizers.linear import pack_linears
from quantizers.outliers import dequantize_matrix
from quantizers.resident import ResidentModel
from quantizers.rounding.one_shot import Request, one_shot
from quantizers.sequential import SequentialInputs
from quantizers.setting import Setting
from quantizers.stack import Stack
from quantizers.stackable import shared
from tests.quantizers.tiny_models import LAYERS, VOCAB, logits, tiny_model

WINDOWS = torch.randint(VOCAB, (20, 30), generator=torch.Generator().manual_seed(1))
SEQUENTIAL = {"gptq": {"hessian": "sequential"}}


def block_by_block(architecture, setting):
    """Each block rounded with what the blocks before it, already rounded, let through."""
    resident = ResidentModel(tiny_model(architecture))
    sites = resident.wiring.linear
    numbers = [[int(p) for p in site.name.split(".") if p.isdigit()] for site in sites]
    for block in range(LAYERS):
        statistics = dict(collect(resident.model, resident.wiring, WINDOWS))
        for site, number in zip(sites, numbers, strict=True):
            if number[0] == block:
                request = Request(site.name, site.weight.half().contiguous(), setting)
                [made] = one_shot([request], statistics[site.input].hessian)
                site.weight.copy_(dequantize_matrix(made.matrix).float())
    return [site.weight for site in sites]


@pytest.mark.parametrize(
    "architecture",
    ["gpt2", "opt", "gpt_neox", "bloom", "llama", "gptj", "falcon", "mixtral", "gemma"],
)
@torch.no_grad()
def test_each_block_reads_what_the_rounded_ones_before_it_give(architecture, monkeypatch):
    monkeypatch.setattr(calibration, "TOKENS_A_BATCH", 150)  # several batches
    setting = Setting.make(3, "int", block_size=16, rounding=SEQUENTIAL)
    resident = ResidentModel(tiny_model(architecture))
    before, answer = list(collect(resident.model, resident.wiring, WINDOWS)), logits(resident.model)
    resident.apply(setting, dict(before), windows=WINDOWS)
    rounded = [site.weight.clone() for site in resident.wiring.linear]
    assert all(map(torch.equal, rounded, block_by_block(architecture, setting)))
    assert resident.records.keys() == {site.name for site in resident.wiring.linear}
    resident.undo()
    assert torch.equal(logits(resident.model), answer)
    resident.apply(Setting.make(3, "int", block_size=16, rounding="gptq"), dict(before))
    same = [torch.equal(*pair) for pair in zip(
        rounded, [site.weight for site in resident.wiring.linear], strict=True
    )]  # fmt: skip
    first = sum(".0." in site.name for site in resident.wiring.linear)
    assert all(same[:first]) and not any(same[first:])


@torch.no_grad()
def test_blocks_that_are_done_are_not_run_again():
    resident = ResidentModel(tiny_model("gpt_neox"))
    runs = []
    for number, block in enumerate(resident.model.gpt_neox.layers):
        block.attention.register_forward_hook(lambda *_, number=number: runs.append(number))
    setting = Setting.make(3, "int", block_size=16, rounding=SEQUENTIAL)
    statistics = dict(collect(resident.model, resident.wiring, WINDOWS))
    runs.clear()
    resident.apply(setting, statistics, windows=WINDOWS)
    assert runs == [0, 0, 1, 1, 2]  # to be recorded, then with what was rounded


def test_it_is_rounded_alone():
    """A sweep never stacks it; asked for explicitly, that is an error."""
    sequential = Setting.make(3, "int", block_size=64, rounding=SEQUENTIAL)
    assert shared(sequential) is None
    assert Stack([sequential]).companions(sequential) == [sequential]
    with pytest.raises(ValueError, match="gptq sequential: .* take it out of the stack"):
        Stack([Setting.make(4, "int", rounding="gptq"), sequential])


def test_what_cannot_be_sequential_is_refused():
    resident = ResidentModel(tiny_model("llama"))
    statistics = dict(collect(resident.model, resident.wiring, WINDOWS))
    setting = Setting.make(3, "int", block_size=64, rounding=SEQUENTIAL)
    with pytest.raises(ValueError, match="sequential: needs the windows of its calibration"):
        resident.apply(setting, statistics)
    with pytest.raises(ValueError, match="put in place as they go"):
        pack_linears(tiny_model("llama"), setting, statistics=statistics)
    with pytest.raises(ValueError, match="hessian sequential takes no folding"):
        Setting.make(3, "int", rounding=SEQUENTIAL, folding="awq")


def test_inputs_are_those_of_the_model_as_it_stands():
    resident = ResidentModel(tiny_model("opt"))
    inputs = SequentialInputs(resident.model, resident.wiring, WINDOWS)
    collected = dict(collect(resident.model, resident.wiring, WINDOWS))
    assert list(inputs) == list(collected)
    for name, statistics in collected.items():
        assert torch.equal(inputs[name].hessian, statistics.hessian)
    with pytest.raises(KeyError):
        inputs["nothing"]
