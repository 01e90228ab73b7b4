"""Rotating the residual stream leaves the function as it was, and is taken back bit for bit."""

import pytest
import torch

from quantizers.calibration import collect
from quantizers.folding.hadamard import Rotation
from quantizers.folding.rotation import rotate
from quantizers.plant import plant
from quantizers.resident import ResidentModel
from quantizers.setting import Setting
from quantizers.undo import UndoLog
from quantizers.wiring import wiring_of
from tests.quantizers.folding.folded import exact_model, put_weights
from tests.quantizers.tiny_models import HIDDEN, VOCAB, logits, tiny_model

ROTATABLE = (
    *("gpt2", "opt", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "gptj", "phi"),
    *("falcon", "falcon-40b", "falcon-rw"),
)
WINDOWS = torch.randint(VOCAB, (6, 30), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("width", [1, 7, 16, 24, 96, 576])
def test_a_rotation_is_orthogonal_and_follows_its_seed(width):
    r = Rotation(width, 3).rows(torch.eye(width))
    torch.testing.assert_close(r @ r.T, torch.eye(width).double(), atol=1e-12, rtol=0)
    assert torch.equal(r, Rotation(width, 3).rows(torch.eye(width)))
    if width & (width - 1) == 0:  # entries of a Hadamard matrix
        torch.testing.assert_close(r.abs(), torch.full_like(r, width**-0.5))
    if width > 1:
        assert not torch.equal(r, Rotation(width, 4).rows(torch.eye(width)))


def put(model, seed=0):
    """The rotated model in fp32, and how to take it back."""
    wiring = wiring_of(model)
    rotated = rotate(model, wiring, seed)
    rotated.check(model, wiring)
    log = UndoLog(torch.float16)
    matrices = {s.name: rotated.weight(s) for s in wiring.linear if rotated.touches(s)}
    put_weights(wiring, matrices, log)
    return log, rotated.put(model, log, torch.float32), wiring


@pytest.mark.parametrize("name", ROTATABLE)
def test_logits_are_the_same_in_fp32_and_undo_is_bit_for_bit(name):
    model = exact_model(name)
    before = logits(model)
    parameters = {n: p.detach().clone() for n, p in model.named_parameters()}
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    stream = {}

    def remember(_, inputs):
        stream["x"] = inputs[0].clone()

    final = [m for n, m in model.named_modules() if n.endswith(("ln_f", "norm", "layernorm"))][-1]
    handle = final.register_forward_pre_hook(remember)
    logits(model)
    plain = stream["x"]
    log, more, wiring = put(model)
    after = logits(model)
    handle.remove()
    assert (after - before).norm() / before.norm() <= 1e-5
    assert (stream["x"] - plain).norm() > 0.5 * plain.norm()  # the basis is another
    now = dict(model.named_parameters())
    added = [p for n, p in now.items() if n not in parameters]
    if tied:
        assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
        added = [p for p in added if p is not model.get_output_embeddings().weight]
        added.append(model.get_output_embeddings().weight)
    assert more == 16 * sum(p.numel() for p in added)
    log.undo()
    assert {n: None for n, _ in model.named_parameters()} == {n: None for n in parameters}
    assert all(torch.equal(p, parameters[n]) for n, p in model.named_parameters())
    assert torch.equal(logits(model), before)
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_biases_are_added_where_a_norm_has_one_and_its_readers_have_none():
    model = exact_model("gptj")
    attention = model.transformer.h[0].attn
    assert attention.q_proj.bias is None
    log, more, _ = put(model)
    assert attention.q_proj.bias.shape == (HIDDEN,)
    assert more == 16 * 3 * 3 * HIDDEN  # q, k, v of three blocks; MLP and head have some
    log.undo()
    assert attention.q_proj.bias is None


@pytest.mark.parametrize("name", ["opt", "llama"])
def test_a_setting_rotates_rounds_and_counts_and_goes_again(name):
    resident = ResidentModel(tiny_model(name))
    before = logits(resident.model)
    wide = {"block_size": "row", "folding": {"hadamard": {"seed": 1}}}
    plain = resident.apply(Setting.make(8, "int", block_size="row"))
    bits = resident.apply(Setting.make(8, "int", **wide))
    assert 0 < (logits(resident.model) - before).norm() / before.norm() < 0.05
    head = 16 * VOCAB * (HIDDEN + 1) if name == "opt" else 0
    assert bits.total_bits == plain.total_bits + head
    basis = Setting.make(8, "int", **wide).basis
    resident.apply(basis)
    exact_but_rounded = logits(resident.model)
    assert 0 < (exact_but_rounded - before).norm() / before.norm() < 2e-3
    statistics = dict(collect(resident.model, resident.wiring, WINDOWS))
    static = Setting.make(8, "int", **wide, activations="tensor", rounding="gptq")
    resident.apply(static, statistics)
    assert 0 < (logits(resident.model) - before).norm() / before.norm() < 0.1
    for site in resident.wiring.linear:
        maximum = resident.layers[site.name].site_format.maximum
        assert maximum == statistics[site.input].maximum
    resident.undo()
    assert torch.equal(logits(resident.model), before)


def test_planted_outliers_are_spread_over_all_channels():
    model = exact_model("llama")
    plant(model, 1, 256.0, seed=0)
    resident = ResidentModel(model)
    before = logits(model)
    seen = dict(collect(model, resident.wiring, WINDOWS))
    rotated = Setting.make(8, "int", block_size="row", folding="hadamard", activations="tensor")
    resident.apply(Setting.make(8, "int", block_size="row", activations="tensor"), seen)
    static = (logits(model) - before).norm()
    resident.apply(rotated.basis)
    turned = dict(collect(model, resident.wiring, WINDOWS))
    resident.apply(rotated, turned)
    assert (logits(model) - before).norm() < 0.25 * static
    name = resident.wiring.linear[0].input
    assert turned[name].maximum < 0.1 * seen[name].maximum


def test_by_range_goes_by_what_a_rotated_model_reads():
    resident = ResidentModel(tiny_model("opt"))
    rotated = Setting.make(16, folding="hadamard")
    resident.apply(rotated)
    turned = dict(collect(resident.model, resident.wiring, WINDOWS))
    ranges = sorted(found.maximum for found in turned.values())
    policy = {"by_range": {"v0": ranges[3], "v1": ranges[-3]}}
    resident.apply(Setting.make(8, "int", folding="hadamard", activations=policy), turned)
    for site in resident.wiring.linear:
        v = turned[site.input].maximum
        static = v <= ranges[3] or (v < ranges[-3] and site.norm is not None)
        name = resident.layers[site.name].site_format.format.name
        assert name == ("tensor" if static else "token")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bloom", "BLOOM's embedding has a norm behind it"),
        ("opt-350m", "the residual stream reads what the norms put out"),
        ("gemma", "architecture 'gemma' is not known"),
        ("mixtral", "architecture 'mixtral' is not known"),
    ],
)
def test_what_cannot_be_rotated_is_one_line(name, reason):
    model = tiny_model(name)
    with pytest.raises(ValueError, match=f"^folding: .*{reason}") as error:
        rotate(model, wiring_of(model), 0)
    assert "\n" not in str(error.value)


def test_a_wrong_turn_is_noticed():
    model = exact_model("gpt_neox")
    wiring = wiring_of(model)
    rotated = rotate(model, wiring, 0)
    rotated.shifts[wiring.linear[0].name].mul_(1.01)
    with pytest.raises(ValueError, match=r"attention\.query_key_value behind .* changes by"):
        rotated.check(model, wiring)
