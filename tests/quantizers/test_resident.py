from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from quantizers.blockwise import dequantize, quantize
from quantizers.codebooks import codebook
from quantizers.granularity import Granularity
from quantizers.outliers import quantize_matrix
from quantizers.resident import ResidentModel
from quantizers.setting import Setting
from quantizers.size import ModelBits
from quantizers.undo import UndoLog
from quantizers.wiring import wiring_of
from tests.quantizers.tiny_models import (
    CONFIGS,
    HIDDEN,
    KNOWN,
    LAYERS,
    MIXTURES,
    logits,
    tiny_model,
)

EMBEDDED = Path(__file__).parents[2] / "models" / "sotu-neox-32x2"


def snapshot(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("scope", ["linear", "all"])
def test_every_architecture_quantizes_its_scope_and_restores_bit_for_bit(architecture, scope):
    model = tiny_model(architecture)
    resident = ResidentModel(model)
    before, answer = snapshot(model), logits(model)
    fraction = 0.1 if architecture in KNOWN else 0.0
    setting = Setting.make(3, "float", block_size=48, outlier_fraction=fraction, scope=scope)
    resident.apply(setting)
    touched = changed(before, snapshot(model))
    embeddings = {n for n in before if any(x in n for x in ("emb", "wte", "wpe", "lm_head"))}
    embeddings = {n for n in embeddings if "layernorm" not in n and not n.endswith("bias")}
    linear = {f"{m.name}.weight" for m in wiring_of(model).linear}
    assert touched == (linear | embeddings if scope == "all" else linear)
    assert not torch.equal(logits(model), answer)
    resident.undo()
    assert not changed(before, snapshot(model))
    assert torch.equal(logits(model), answer)


@pytest.mark.parametrize("architecture", KNOWN)
def test_weights_are_those_of_the_parts(architecture):
    """Each matrix equals quantize/dequantize of its output x input form, outliers chosen from the
    original producer by a plain re-statement of the rule."""
    model = tiny_model(architecture)
    resident = ResidentModel(model)
    before = snapshot(model)
    resident.apply(Setting.make(4, "int", block_size=32, outlier_fraction=0.1))
    table = codebook("int", 4)
    n_outliers = 0
    for site in wiring_of(model).linear:

        def oriented(weights, m=site):
            return weights.T if m.transposed else weights

        original = oriented(before[f"{site.name}.weight"]).half().contiguous()
        result = oriented(site.parameter.detach())
        columns = []
        if site.producer:
            source = oriented(before[f"{site.producer.site}.weight"])
            std = source.double().std(1)[site.producer.rows].tolist()
            order = sorted(range(len(std)), key=lambda j: (-std[j], j))
            columns = order[: -(-len(std) // 10)]
        n_outliers += len(columns)
        rest = [j for j in range(original.shape[1]) if j not in columns]
        assert torch.equal(result[:, columns], original[:, columns].float())
        expected = dequantize(quantize(original[:, rest], table, 4, Granularity(32)))
        assert torch.equal(result[:, rest], expected.float())
    assert n_outliers >= 3 * LAYERS


def test_one_setting_after_another_starts_from_the_originals():
    model = tiny_model("gpt2")
    resident = ResidentModel(model)
    four = Setting.make(4, "float", block_size=64)
    fresh = resident.apply(four)
    expected = snapshot(model)
    resident.apply(Setting.make(2, "int", scope="all"))
    assert resident.apply(four) == fresh
    assert not changed(expected, snapshot(model))  # the embeddings too are back at 16 bit


def test_16_bit_is_the_rounded_checkpoint():
    model = tiny_model("opt")
    checkpoint = snapshot(model)
    resident = ResidentModel(model, load_dtype=torch.bfloat16)
    resident.apply(Setting.make(3, "int"))
    bits = resident.apply(Setting.make(16))
    for name, weight in snapshot(model).items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, checkpoint[name].bfloat16().float())
    n = sum(p.numel() for p in model.parameters())
    n_linear = LAYERS * (4 * HIDDEN**2 + 2 * HIDDEN * 48)
    assert bits == ModelBits(n, 16 * n, 16 * n_linear, 16 * n, 16)


@pytest.mark.parametrize(
    ("load_dtype", "compute_dtype"),
    [
        (torch.float16, torch.float32),
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float32),
    ],
    ids=str,
)
def test_dtypes(load_dtype, compute_dtype):
    model = tiny_model("llama")
    resident = ResidentModel(model, load_dtype, compute_dtype)
    resident.apply(Setting.make(5, "float", block_size=64))
    weight = model.model.layers[1].mlp.up_proj.weight
    assert weight.dtype == compute_dtype
    half = torch.float16 if load_dtype == torch.float32 else load_dtype
    (site,) = [s for s in wiring_of(model).linear if s.name == "model.layers.1.mlp.up_proj"]
    source = resident._original(site)
    assert source.dtype == half
    expected = dequantize(quantize(source.to(load_dtype), codebook("float", 5), 5, Granularity(64)))
    assert torch.equal(weight, expected.to(compute_dtype))


def formula_bits(model, setting, table_values):
    """Bits by the formulas, from shapes alone, assuming that no two matrices are tied."""
    k, p = setting.bits, setting.outlier_fraction
    n_params = sum(x.numel() for x in model.parameters())
    stored = n_matrices = n_quantized = 0
    for site in wiring_of(model).linear:
        n = site.parameter.numel()
        d_in = site.parameter.shape[0 if site.transposed else 1]
        c = -(-int(1000 * p) * d_in // 1000) if site.producer else 0
        kept = c * (n // d_in)
        blocks = -(-(n - kept) // setting.block_size) if setting.block_size else 1
        stored += 4 * -(-(n - kept) * k // 32) + 2 * blocks * (1 + setting.centered)
        stored += 2 * kept + 4 * c
        n_matrices += 1
        n_quantized += n
    tables = 4 * table_values * (n_matrices if setting.data_type == "quantile" else 1)
    quantized = 8 * (stored + tables)
    return quantized, quantized + 16 * (n_params - n_quantized)


@pytest.mark.parametrize("architecture", ["gpt2", "opt-350m", "gpt_neox", "llama"])
@pytest.mark.parametrize(
    ("settings", "table_values"),
    [
        ({"bits": 4, "data_type": "float", "block_size": 64}, 15),
        ({"bits": 3, "data_type": "int", "block_size": 50, "outlier_fraction": 0.1}, 7),
        ({"bits": 5, "data_type": "dynamic", "block_size": None, "centered": True}, 32),
        ({"bits": 3, "data_type": "quantile", "block_size": 64, "outlier_fraction": 0.02}, 8),
    ],
)
def test_bits_by_formula(architecture, settings, table_values):
    model = tiny_model(architecture)
    setting = Setting.make(**settings)
    bits = ResidentModel(model).apply(setting)
    assert (bits.quantized_bits, bits.total_bits) == formula_bits(model, setting, table_values)
    assert bits.n_params == sum(p.numel() for p in model.parameters())
    assert bits.bits_per_param == setting.bits_per_param
    assert bits.nominal_bits == pytest.approx(bits.n_params * setting.bits_per_param)


def test_bits_are_the_bytes_of_the_tensors(monkeypatch):
    held = []

    def keep(*args, **kwargs):
        held.append(quantize_matrix(*args, **kwargs))
        return held[-1]

    monkeypatch.setattr("quantizers.plan.quantize_matrix", keep)
    model = tiny_model("gpt2")  # its head is tied: the embedding is held and counted once
    setting = Setting.make(
        5, "int", block_size=40, centered=True, outlier_fraction=0.05, scope="all"
    )
    bits = ResidentModel(model).apply(setting)
    size = held[0].body.codebook.nbytes
    for q in held:
        for part in (q.body.words, q.body.absmax, q.body.mean, q.columns, q.kept):
            size += part.untyped_storage().nbytes()
    assert bits.quantized_bits == 8 * size
    vectors = sum(p.numel() for p in model.parameters() if p.dim() == 1)
    assert bits.total_bits == 8 * size + 16 * vectors
    assert len(held) == 4 * LAYERS + 2


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("spelled", ["row", {"group": 24}, {"group": 16}, {"group": 1000}])
def test_bits_of_rows_and_groups_are_those_of_the_models_matrices(spelled, centered):
    model = tiny_model("llama")
    shapes = [site.weight.shape for site in wiring_of(model).linear]
    size = 10**6 if spelled == "row" else spelled["group"]
    blocks = sum(d_out * -(-d_in // size) for d_out, d_in in shapes)
    n = sum(d_out * d_in for d_out, d_in in shapes)
    bits = ResidentModel(model).apply(Setting.make(4, "int", block_size=spelled, centered=centered))
    words = sum(4 * -(-d_out * d_in * 4 // 32) for d_out, d_in in shapes)
    assert bits.quantized_bits == 8 * (words + 2 * blocks * (1 + centered) + 4 * 15)
    assert bits.bits_per_param == pytest.approx(4 + 16 * blocks * (1 + centered) / n)
    assert bits.nominal_bits == pytest.approx(bits.n_params * bits.bits_per_param)


def test_tied_head_stays_tied():
    model = tiny_model("bloom")
    resident = ResidentModel(model)
    resident.apply(Setting.make(4, "int", scope="all"))
    assert model.lm_head.weight is model.transformer.word_embeddings.weight
    assert len(model.lm_head.weight[:3, :9].unique()) <= 15


def test_an_error_names_the_weight_and_leaves_the_originals():
    model = tiny_model("gpt_neox")
    model.gpt_neox.layers[1].mlp.dense_h_to_4h.weight.data[3, 4] = float("nan")
    resident = ResidentModel(model)
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"^gpt_neox\.layers\.1\.mlp\.dense_h_to_4h\.weight: "):
        resident.apply(Setting.make(4, "int"))
    after = snapshot(model)
    assert changed(before, after) == {"gpt_neox.layers.1.mlp.dense_h_to_4h.weight"}  # nan != nan
    model = tiny_model("opt")
    model.model.decoder.layers[0].fc1.bias.data[0] = 1e6
    with pytest.raises(ValueError, match=r"layers\.0\.fc1\.bias: .*overflows 16 bit"):
        ResidentModel(model)


def test_proxy_quantization_of_an_unknown_architecture():
    resident = ResidentModel(tiny_model("gemma"))
    with pytest.raises(ValueError, match="outlier_fraction: .*'gemma'"):
        resident.apply(Setting.make(4, "int", outlier_fraction=0.02))


def test_embedded_model_from_its_file():
    """A trained model: at 8 bit close to the file, at 2 bit far, and back to the file."""
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float16)
    stored = load_file(EMBEDDED / "model.safetensors")
    resident = ResidentModel(model)
    ids = torch.randint(2048, (4, 64), generator=torch.Generator().manual_seed(0))

    def error(setting):
        resident.apply(setting)
        with torch.no_grad():
            return (model(ids).logits - reference).square().mean().item()

    with torch.no_grad():
        reference = model(ids).logits
    errors = [error(Setting.make(k, "float", block_size=64)) for k in (2, 3, 4, 6, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 50 * errors[-1] > 0
    assert error(Setting.make(16)) == 0
    stored["lm_head.weight"] = stored.pop("embed_out.weight", stored.get("lm_head.weight"))
    assert not changed(stored, {n: p.half() for n, p in model.named_parameters()})


@pytest.mark.parametrize("architecture", MIXTURES)
def test_a_mixture_of_experts_is_quantized_expert_by_expert(architecture):
    model = tiny_model(architecture)
    resident = ResidentModel(model)
    before, answer = snapshot(model), logits(model)
    setting = Setting.make(3, "int", block_size=50)
    bits = resident.apply(setting)
    table = codebook("int", 3)
    stored = n_quantized = 0
    for site in wiring_of(model).linear:
        name = site.name if site.expert is None else site.name.rpartition(".")[0]
        weights = before[f"{name}.weight" if site.expert is None else name]
        weights = weights if site.expert is None else weights[site.expert]
        weights = (weights.T if site.transposed else weights).half().contiguous()
        expected = dequantize(quantize(weights, table, 3, Granularity(50)))
        assert torch.equal(site.weight, expected.float())
        n = weights.numel()
        stored += 4 * -(-n * 3 // 32) + 2 * -(-n // 50)
        n_quantized += n
    touched = changed(before, snapshot(model))
    assert touched and not any("router" in n or "gate." in n or "norm" in n for n in touched)
    n_params = sum(p.numel() for p in model.parameters())
    assert bits.quantized_bits == 8 * (stored + 4 * 7)
    assert bits.total_bits == bits.quantized_bits + 16 * (n_params - n_quantized)
    assert not torch.equal(logits(model), answer)
    resident.undo()
    assert not changed(before, snapshot(model)) and torch.equal(logits(model), answer)
    with pytest.raises(ValueError, match="outlier_fraction"):
        resident.apply(Setting.make(4, "int", outlier_fraction=0.02))


@pytest.mark.parametrize("architecture", ["mamba", "rwkv", "jamba"])
def test_what_cannot_be_quantized_has_its_16_bit_baseline(architecture):
    config = {
        "mamba": hf.MambaConfig(vocab_size=40, hidden_size=24, num_hidden_layers=2, state_size=4),
        "rwkv": hf.RwkvConfig(vocab_size=40, hidden_size=24, num_hidden_layers=2),
        "jamba": hf.JambaConfig(
            vocab_size=40, hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, intermediate_size=40, num_experts=2, attn_layer_period=2,
            attn_layer_offset=1,
        ),
    }[architecture]  # fmt: skip
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    resident = ResidentModel(model)
    before = snapshot(model)
    bits = resident.apply(Setting.make(16))
    n = sum(p.numel() for p in model.parameters())
    assert bits == ModelBits(n, 16 * n, None, 16.0 * n, 16)
    with pytest.raises(ValueError, match=f"architecture '{architecture}' cannot be quantized"):
        resident.apply(Setting.make(4, "int"))
    assert not changed(before, snapshot(model))


def test_undo_takes_back_parameters_hooks_and_more():
    model = tiny_model("llama").half().float()
    before, answer = snapshot(model), logits(model)
    log = UndoLog(torch.float16)
    with torch.no_grad():
        for _ in range(2):
            for parameter in model.parameters():
                log.will_change(parameter)
                parameter.mul_(1.01)
            hook = model.lm_head.register_forward_hook(lambda _, x, y: y + 1)
            log.add(hook.remove)
            assert len(changed(before, snapshot(model))) == len(before)
            assert torch.equal(log.original(model.lm_head.weight).float(), before["lm_head.weight"])
            log.undo()
            assert not changed(before, snapshot(model)) and torch.equal(logits(model), answer)
