"""Folding, rounding and activations of whole models, as one setting, and back again."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from quantizers.calibration import collect
from quantizers.folding.method import Method
from quantizers.folding.norms import choose
from quantizers.linear import pack_linears
from quantizers.outliers import dequantize_matrix, quantize_matrix
from quantizers.plant import plant
from quantizers.resident import ResidentModel
from quantizers.rounding.one_shot import Request, one_shot
from quantizers.setting import Setting
from tests.quantizers.tiny_models import VOCAB, logits, tiny_model

WINDOWS = torch.randint(VOCAB, (6, 30), generator=torch.Generator().manual_seed(1))
FIVE = ("gpt2", "opt", "gpt_neox", "bloom", "llama")
EMBEDDED = Path(__file__).parents[2] / "models" / "sotu-neox-32x2"
ROW = {"block_size": "row"}


def calibrated(name):
    resident = ResidentModel(tiny_model(name))
    return resident, dict(collect(resident.model, resident.wiring, WINDOWS))


def distance(after, before):
    return float((after - before).norm() / before.norm())


@pytest.mark.parametrize("name", FIVE)
@pytest.mark.parametrize(
    "factors",
    [
        {"bits": 8, **ROW, "activations": "token"},
        {"bits": 8, **ROW, "folding": "smoothquant", "activations": "tensor"},
        {"bits": 8, **ROW, "activations": {"decomposed": {"threshold": 2}}},
        {"bits": 8, "block_size": {"group": 8}, "folding": "logarithmic", "activations": "by_type"},
        {"bits": 6, **ROW, "folding": "awq", "activations": "token"},
        {"bits": 16, "folding": "logarithmic", "activations": "by_type"},
    ],
    ids=lambda f: " ".join(str(f.get(k, "")) for k in ("bits", "folding", "activations")),
)
def test_every_architecture_computes_what_the_setting_says_and_is_put_back(name, factors):
    resident, statistics = calibrated(name)
    before = {n: p.detach().clone() for n, p in resident.model.named_parameters()}
    exact = logits(resident.model)
    setting = Setting.make(data_type=None if factors["bits"] == 16 else "int", **factors)
    resident.apply(setting, statistics if setting.needs_statistics else None)
    rounded = logits(resident.model)
    assert 1e-5 < distance(rounded, exact) < 0.1
    assert len(resident.layers) == len(resident.wiring.linear)
    assert resident.arithmetic == ("float" if factors["bits"] == 16 else "integer")
    resident.apply(setting, statistics)
    assert torch.equal(logits(resident.model), rounded)
    resident.undo()
    assert resident.arithmetic is None
    assert all(torch.equal(p, before[n]) for n, p in resident.model.named_parameters())
    assert torch.equal(logits(resident.model), exact)
    assert not any("forward" in module.__dict__ for module in resident.model.modules())


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2_moe", "mixtral"])
def test_folding_alone_changes_rounding_only(name):
    """At 16 bit what is left is the rounding of folded parameters; routers are folded too."""
    resident, statistics = calibrated(name)
    exact = logits(resident.model)
    if name == "mixtral":  # what its experts read together is seen nowhere
        with pytest.raises(ValueError, match="calibration does not see what"):
            resident.apply(Setting.make(16, folding="smoothquant"), statistics)
        assert torch.equal(logits(resident.model), exact)
        return
    bits = resident.apply(Setting.make(16, folding="smoothquant"), statistics)
    assert 0 < distance(logits(resident.model), exact) < 2e-3
    assert bits == ResidentModel(tiny_model(name)).apply(Setting.make(16))


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_folded_weights_are_rounded_as_what_they_are(rounding):
    """Fp32 until they are rounded, GPTQ with the Hessian of the folded input."""
    resident, statistics = calibrated("gpt_neox")
    setting = Setting.make(3, "int", **ROW, rounding=rounding, folding="logarithmic")
    before = {site.name: site.weight.clone() for site in resident.wiring.linear}
    folding = choose(Method("logarithmic", 1.0), resident.wiring, statistics)
    resident.apply(setting, statistics)
    for site in resident.wiring.linear:
        s = folding.scale(site)
        weight = before[site.name] if s is None else before[site.name] * s
        weight = weight.half() if s is None else weight
        hessian = statistics[site.input].hessian
        hessian = hessian if s is None else hessian / s / s[:, None]
        if rounding == "nearest":
            expected = quantize_matrix(weight.contiguous(), setting)
        else:
            [found] = one_shot([Request(site.name, weight.contiguous(), setting)], hessian)
            expected = found.matrix
        assert torch.equal(site.weight, dequantize_matrix(expected).half().float())
        if s is not None:
            norm = resident.model.get_submodule(site.norm)
            assert torch.equal(norm.weight, norm.weight.half().float())


def test_bits_count_static_scales_and_weights_that_are_held_twice():
    resident, statistics = calibrated("opt")
    plain = resident.apply(Setting.make(8, "int", **ROW))
    n = len(resident.wiring.linear)
    static = resident.apply(Setting.make(8, "int", **ROW, activations="tensor"), statistics)
    assert static.total_bits == plain.total_bits + 32 * n
    by_type = resident.apply(Setting.make(8, "int", **ROW, activations="by_type"), statistics)
    assert by_type.total_bits == plain.total_bits + 32 * (n - n // 6)
    twice = resident.apply(Setting.make(8, "int", **ROW, activations="decomposed"))
    n_weights = sum(site.weight.numel() for site in resident.wiring.linear)
    assert twice.total_bits == plain.total_bits + 16 * n_weights
    once = {"decomposed": {"outlier_weights": "quantized"}}
    assert resident.apply(Setting.make(8, "int", **ROW, activations=once)) == plain
    assert resident.apply(Setting.make(8, "int", **ROW, activations="token")) == plain


def test_by_range_folds_and_chooses_by_what_was_seen():
    resident, statistics = calibrated("llama")
    ranges = sorted({round(s.maximum, 6) for s in statistics.values()})
    low, high = ranges[len(ranges) // 3], ranges[-2]
    setting = Setting.make(
        8, "int", **ROW, folding="logarithmic", activations={"by_range": {"v0": low, "v1": high}}
    )
    resident.apply(setting, statistics)
    seen = set()
    for site in resident.wiring.linear:
        v = statistics[site.input].maximum
        layer, between = resident.layers[site.name], low < v < high
        folds = between and site.norm is not None
        assert layer.site_format.format.name == ("tensor" if v <= low or folds else "token")
        if layer.site_format.maximum is not None:
            assert (layer.site_format.maximum == v) == (not folds)
        seen.add((layer.site_format.format.name, folds))
    assert {("tensor", True), ("tensor", False), ("token", False)} <= seen


def test_planted_outliers_ruin_a_static_scale_and_what_recovers_does():
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    plant(model, 2, 64.0, seed=0)
    resident = ResidentModel(model)
    ids = torch.randint(2048, (4, 64), generator=torch.Generator().manual_seed(0))
    statistics = dict(collect(model, resident.wiring, ids))

    def error(**factors):
        setting = Setting.make(8, "int", **ROW, **factors)
        resident.apply(setting, statistics)
        assert resident.arithmetic == "integer"
        with torch.no_grad():
            return distance(model(ids).logits, exact)

    with torch.no_grad():
        exact = model(ids).logits
    static, token = error(activations="tensor"), error(activations="token")
    smooth = error(activations="tensor", folding="smoothquant")
    equalized = error(activations="tensor", folding="logarithmic")
    split = error(activations={"decomposed": {"threshold": 6}})
    assert max(smooth, equalized, split) < 0.25 * static
    assert token < static


def test_proxy_outliers_and_other_types_are_multiplied_in_floating_point():
    resident, _ = calibrated("gpt2")
    resident.apply(Setting.make(8, "float", **ROW, activations="token"))
    assert resident.arithmetic == "float"
    setting = Setting.make(8, "int", **ROW, outlier_fraction=0.1, activations="token")
    resident.apply(setting)
    assert resident.arithmetic == "mixed"  # the first block has no outliers


@pytest.mark.parametrize(
    ("name", "factors", "reason"),
    [
        ("llama", {"activations": "tensor"}, "needs a calibration, none is given"),
        ("llama", {"folding": "smoothquant"}, "needs a calibration, none is given"),
        ("mixtral", {"activations": "token"}, "activations: 'mixtral' has experts"),
        ("opt-350m", {"folding": "logarithmic"}, "the residual stream reads"),
        ("gemma", {"activations": "by_type"}, "by_type does not know the wiring"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_the_model_as_it_was(name, factors, reason):
    resident, statistics = calibrated(name)
    exact = logits(resident.model)
    with pytest.raises(ValueError, match=reason) as error:
        given = None if "none is given" in reason else statistics
        resident.apply(Setting.make(8, "int", **ROW, **factors), given)
    assert "\n" not in str(error.value)
    assert torch.equal(logits(resident.model), exact)


def test_packed_layers_refuse_it():
    with pytest.raises(ValueError, match="packed layers neither fold nor round"):
        pack_linears(tiny_model("llama"), Setting.make(8, "int", **ROW, activations="token"))


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_attention_may_have_bits_of_its_own(rounding):
    resident, statistics = calibrated("llama")
    factors = {"block_size": {"group": 8}, "activations": "token", "rounding": rounding}
    mixed = Setting.make(4, "int", attention_bits=8, **factors)
    bits = resident.apply(mixed, statistics)
    held = {site.name: site.weight.clone() for site in resident.wiring.linear}
    total, weights = 0.0, 0
    for width, kinds in ((8, ("qkv", "attention_output")), (4, ("up", "down"))):
        resident.apply(Setting.make(width, "int", **factors), statistics)
        for site in resident.wiring.linear:
            if site.kind in kinds:
                assert torch.equal(site.weight, held[site.name])
                total += (width + 16 / 8) * site.weight.numel()
                weights += site.weight.numel()
    assert bits.bits_per_param == pytest.approx(total / weights)
    tables = 4 * (2**4 + 2**8 - 2)
    assert bits.quantized_bits == pytest.approx(total + 8 * tables, rel=1e-3)
    assert Setting.make(8, "int", attention_bits=8) == Setting.make(8, "int")


def test_one_scale_for_all_tokens_at_hand_looks_ahead():
    resident, _ = calibrated("opt")
    resident.apply(Setting.make(8, "int", **ROW, activations="tensor-dynamic"))
    ids = torch.arange(12).view(1, 12) % VOCAB
    with torch.no_grad():
        assert not torch.equal(resident.model(ids).logits[:, :5], resident.model(ids[:, :5]).logits)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("bits", [4, 8])
def test_products_marked_integer_never_read_the_weights_in_floating_point(name, bits):
    resident, statistics = calibrated(name)
    factors = {"block_size": {"group": 8}, "activations": "by_type", "kv": "token"}
    resident.apply(Setting.make(bits, "int", **factors), statistics)
    assert resident.arithmetic == "integer"
    before = logits(resident.model)
    for site in resident.wiring.linear:
        site.parameter.data.fill_(float("nan"))
    assert torch.isfinite(before).all() and torch.equal(logits(resident.model), before)


@pytest.mark.parametrize("site", ["qkv", "attention_output", "up", "down"])
def test_one_changed_bit_of_one_code_changes_the_output(site, monkeypatch):
    resident, _ = calibrated("opt")
    resident.apply(Setting.make(8, "int", **ROW, activations="token"))
    before = logits(resident.model)
    changed = next(resident.layers[s.name] for s in resident.wiring.linear if s.kind == site)
    original = changed._codes

    def flipped(rows):
        codes = original(rows)
        values = codes.values.clone()
        values[5, 3] ^= 1
        return replace(codes, values=values)

    monkeypatch.setattr(changed, "_codes", flipped)
    after = logits(resident.model)
    assert torch.equal(after[0, :5], before[0, :5])  # no token before it
    assert not torch.equal(after[0, 5], before[0, 5])


def test_calibrated_columns_are_multiplied_in_16_bit_for_every_token():
    resident, statistics = calibrated("llama")
    plain = resident.apply(Setting.make(8, "int", **ROW))
    maxima = {s.name: statistics[s.input].channel_max for s in resident.wiring.linear}
    threshold = float(torch.cat(list(maxima.values())).quantile(0.9))
    fixed = {"decomposed": {"threshold": threshold, "columns": "calibrated"}}
    bits = resident.apply(Setting.make(8, "int", **ROW, activations=fixed), statistics)
    twice = 0
    for site in resident.wiring.linear:
        chosen = resident.layers[site.name].site_format.columns
        assert torch.equal(chosen, maxima[site.name] >= threshold)
        twice += int(chosen.sum()) * len(site.weight)
    assert twice and bits.total_bits == plain.total_bits + 16 * twice
    fixed_logits = logits(resident.model)
    everything = {"decomposed": {"threshold": 0, "columns": "calibrated"}}
    resident.apply(Setting.make(8, "int", **ROW, activations=everything), statistics)
    exact = ResidentModel(tiny_model("llama"))
    assert torch.equal(logits(resident.model), logits(exact.model))
    assert not torch.equal(fixed_logits, logits(exact.model))
