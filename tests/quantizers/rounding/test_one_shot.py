"""GPTQ of whole models: every architecture's sites, and settings that are rounded together."""

from dataclasses import replace

import pytest
import torch

from quantizers import plan
from quantizers.calibration import collect
from quantizers.linear import pack_linears
from quantizers.outliers import dequantize_matrix
from quantizers.resident import ResidentModel
from quantizers.rounding.one_shot import Request, one_shot
from quantizers.setting import Setting
from quantizers.stack import Stack
from quantizers.wiring import wiring_of
from tests.quantizers.tiny_models import VOCAB, logits, tiny_model

WINDOWS = torch.randint(VOCAB, (40, 30), generator=torch.Generator().manual_seed(1))
ARCHITECTURES = ("gpt2", "opt", "gpt_neox", "bloom", "llama")  # fused, Conv1D, apart, grouped
GPTQ = {"rounding": "gptq"}


def calibrated(architecture):
    resident = ResidentModel(tiny_model(architecture))
    return resident, dict(collect(resident.model, resident.wiring, WINDOWS))


def output_error(resident, statistics, before):
    """tr(D H D^T) over all sites."""
    total = 0.0
    for site in resident.wiring.linear:
        delta = (site.weight - before[site.name]).double()
        total += float((delta @ statistics[site.input].hessian.double() * delta).sum())
    return total


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("fraction", [0.0, 0.1])
def test_every_architecture(architecture, fraction):
    """Each site as if it were alone; the model is put back; bits are those of nearest."""
    resident, statistics = calibrated(architecture)
    before = {site.name: site.weight.clone() for site in resident.wiring.linear}
    answer = logits(resident.model)
    factors = {"block_size": {"group": 12}, "outlier_fraction": fraction}
    gptq = Setting.make(3, "float", **factors, **GPTQ)
    bits = resident.apply(gptq, statistics)
    rounded = {site.name: site.weight.clone() for site in resident.wiring.linear}
    error = output_error(resident, statistics, before)
    for site in resident.wiring.linear:
        columns = resident._proxies.columns(site, fraction)
        request = Request(site.name, before[site.name].half().contiguous(), gptq, columns)
        [alone] = one_shot([request], statistics[site.input].hessian)
        assert torch.equal(rounded[site.name], dequantize_matrix(alone.matrix).float())
    resident.undo()
    assert torch.equal(logits(resident.model), answer)
    nearest = resident.apply(Setting.make(3, "float", **factors))
    assert bits == nearest
    assert error < output_error(resident, statistics, before)


@pytest.mark.parametrize("architecture", ["mixtral", "gpt_oss"])
def test_experts_by_what_each_of_them_reads(architecture):
    resident, statistics = calibrated(architecture)
    before = {site.name: site.weight.clone() for site in resident.wiring.linear}
    idle = next(site for site in resident.wiring.linear if site.expert == 1)
    nothing = torch.zeros_like(statistics[idle.input].hessian)  # no token was sent to it
    statistics[idle.input] = replace(statistics[idle.input], hessian=nothing)
    setting = Setting.make(3, "int", block_size=12, **GPTQ)
    bits = resident.apply(setting, statistics)
    rounded = {site.name: site.weight.clone() for site in resident.wiring.linear}
    records, error = resident.records, output_error(resident, statistics, before)
    for site in resident.wiring.linear:
        request = Request(site.name, before[site.name].half().contiguous(), setting)
        [alone] = one_shot([request], statistics[site.input].hessian)
        assert torch.equal(rounded[site.name], dequantize_matrix(alone.matrix).float())
    assert resident.apply(Setting.make(3, "int", block_size=12)) == bits
    assert torch.equal(idle.weight, rounded[idle.name])  # to nearest, and it is said
    assert records[idle.name]["dead"] == len(nothing)
    assert error < output_error(resident, statistics, before)


def test_settings_of_a_matrix_together_are_each_alone():
    resident, statistics = calibrated("llama")
    site = resident.wiring.linear[0]
    hessian = statistics[site.input].hessian
    weight = site.weight.half().contiguous()
    kept = torch.tensor([2, 7])
    settings = [
        Setting.make(bits, data_type, block_size=block, scales=scales, **GPTQ, centered=bits == 4)
        for bits, data_type, block in [(2, "int", 64), (4, "quantile", "row"), (8, "dynamic", 7)]
        for scales in ("absmax", "clipped")
    ]
    settings.append(Setting.make(3, "int", rounding={"gptq": {"order": False, "damping": 0.1}}))
    by_hessian = {"scales": "clipped", "clip_weighting": "hessian"}
    settings.append(Setting.make(3, "int", block_size=64, **by_hessian, **GPTQ))
    requests = [Request("w", weight, s, c) for s in settings for c in (None, kept)]
    together = one_shot(requests, hessian)
    for request, found in zip(requests, together, strict=True):
        [alone] = one_shot([request], hessian)
        assert torch.equal(dequantize_matrix(found.matrix), dequantize_matrix(alone.matrix))
        assert found.loss == alone.loss and found.damping == request.setting.gptq_damping


def test_losses_of_gptq_and_of_nearest_are_recorded():
    resident, statistics = calibrated("llama")
    before = {site.name: site.weight.clone() for site in resident.wiring.linear}
    factors = {"block_size": 12, "outlier_fraction": 0.1, "scales": "clipped"}
    resident.apply(Setting.make(3, "int", **factors, **GPTQ), statistics)
    records, rounded = resident.records, [s.weight.clone() for s in resident.wiring.linear]
    resident.apply(Setting.make(3, "int", **factors))
    assert not resident.records  # nearest reads no Hessian
    for site, gptq in zip(resident.wiring.linear, rounded, strict=True):
        h = statistics[site.input].hessian.double()
        damped = h + 0.01 * h.diagonal().mean() * torch.eye(len(h))
        record = records[site.name]
        for name, weight in (("loss", gptq), ("loss_nearest", site.weight)):
            delta = (weight - before[site.name]).double()
            error = float((delta @ damped * delta).sum())
            assert record[name] == pytest.approx(error, rel=1e-4), (site.name, name)
        assert (record["dead"], record["damping"]) == (0, 0.01)
    resident.undo()
    assert not resident.records


@pytest.mark.parametrize("fraction", [0.0, 0.2])
def test_dead_columns_become_zero_where_that_is_asked_for(fraction):
    resident, statistics = calibrated("llama")
    site = resident.wiring.linear[0]
    hessian, dead = statistics[site.input].hessian.clone(), [1, 2, 20]
    hessian[dead] = 0
    hessian[:, dead] = 0
    columns = torch.tensor([2, 7]) if fraction else None
    weight = site.weight.half().contiguous()
    made = {}
    for choice in ("nearest", "zero"):
        rounding = {"gptq": {"dead": choice}}
        setting = Setting.make(4, "float", block_size=8, rounding=rounding)
        [made[choice]] = one_shot([Request("w", weight, setting, columns)], hessian)
    assert made["zero"].dead == made["nearest"].dead == 3
    zero, nearest = (dequantize_matrix(made[c].matrix) for c in ("zero", "nearest"))
    assert not zero[:, dead].any() and nearest[:, dead].any()
    live = [c for c in range(weight.shape[1]) if c not in dead]
    assert torch.equal(zero[:, live], nearest[:, live])
    assert made["zero"].loss < made["nearest"].loss  # what was zeroed costs nothing


SEVERAL = [
    Setting.make(bits, kind, block_size=block, scales=scales, outlier_fraction=fraction, **GPTQ)
    for bits, kind, block, scales, fraction in [
        (3, "int", 64, "absmax", 0.0), (2, "quantile", None, "clipped", 0.1),
        (4, "float", "row", "absmax", 0.1), (4, "dynamic", {"group": 12}, "clipped", 0.0),
    ]
]  # fmt: skip


def weights_at(resident, settings, statistics, stack):
    found = []
    for setting in settings:
        bits = resident.apply(setting, statistics, stack)
        weights = [site.weight.clone() for site in resident.wiring.linear]
        found.append((bits, weights))
    return found


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_stack_of_settings_is_each_alone(architecture, monkeypatch):
    resident, statistics = calibrated(architecture)
    alone = weights_at(resident, SEVERAL, statistics, None)
    calls = []
    monkeypatch.setattr(plan, "one_shot", lambda *a: calls.append(len(a[0])) or one_shot(*a))
    between = [SEVERAL[0], Setting.make(3, "int"), *SEVERAL[1:]]  # nearest has no part in it
    together = weights_at(resident, between, statistics, Stack(SEVERAL))
    del together[1]
    assert len(calls) == len({site.input for site in resident.wiring.linear})
    for (bits, weights), (bits_alone, weights_alone) in zip(together, alone, strict=True):
        assert bits == bits_alone
        assert all(map(torch.equal, weights, weights_alone))


def test_a_setting_that_fails_fails_alone(monkeypatch):
    resident, statistics = calibrated("gpt2")
    alone = weights_at(resident, SEVERAL[:2], statistics, None)

    def failing(requests, hessian):
        if any(request.setting == SEVERAL[2] for request in requests):
            raise ValueError("a 16-bit column overflows")
        return one_shot(requests, hessian)

    monkeypatch.setattr(plan, "one_shot", failing)
    stack = Stack(SEVERAL)
    together = weights_at(resident, SEVERAL[:2], statistics, stack)
    with pytest.raises(ValueError, match="overflows"):
        resident.apply(SEVERAL[2], statistics, stack)
    for (_, weights), (_, weights_alone) in zip(together, alone, strict=True):
        assert all(map(torch.equal, weights, weights_alone))


def test_packed_layers_are_those_of_the_sweep():
    resident, statistics = calibrated("gpt_neox")
    setting = Setting.make(4, "quantile", block_size="row", **GPTQ)
    resident.apply(setting, statistics)
    packed = ResidentModel(tiny_model("gpt_neox")).model  # in 16 bit
    pack_linears(packed, setting, statistics=statistics)
    assert torch.equal(logits(packed), logits(resident.model))


def test_embeddings_are_rounded_to_nearest():
    resident, statistics = calibrated("gpt2")
    resident.apply(Setting.make(4, "int", scope="all", **GPTQ), statistics)
    embedding = resident.wiring.embeddings[0].weight.clone()
    resident.apply(Setting.make(4, "int", scope="all"))
    assert torch.equal(resident.wiring.embeddings[0].weight, embedding)


def test_statistics_that_are_missing_are_named():
    resident, statistics = calibrated("opt")
    setting = Setting.make(4, "int", block_size=64, **GPTQ)
    with pytest.raises(ValueError, match="4-bit int B64 gptq: needs a calibration"):
        resident.apply(setting)
    last = wiring_of(resident.model).linear[-1]
    with pytest.raises(ValueError, match=f"calibration does not see what {last.name} reads"):
        resident.apply(setting, {k: v for k, v in statistics.items() if k != last.input})
    clipped = Setting.make(4, "int", scales="clipped", clip_weighting="hessian")
    with pytest.raises(ValueError, match="needs a calibration"):
        resident.apply(clipped)
    resident.apply(clipped, statistics)
