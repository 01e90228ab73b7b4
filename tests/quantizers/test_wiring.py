import pytest
import torch
import transformers as hf
from torch import nn

from quantizers.wiring import wiring_of
from tests.quantizers.tiny_models import (
    CONFIGS,
    HIDDEN,
    KNOWN,
    LAYERS,
    MIXTURES,
    VOCAB,
    logits,
    tiny_model,
)

BLOCKS = {  # one block's matrices in forward order, as <module>: <what produces its input>
    "gpt2": (
        "transformer.h.{}",
        {
            "attn.c_attn": "^mlp.c_proj",
            "attn.c_proj": "attn.c_attn",
            "mlp.c_fc": "attn.c_proj",
            "mlp.c_proj": "mlp.c_fc",
        },
    ),
    "opt": (
        "model.decoder.layers.{}",
        {
            "self_attn.q_proj": "^fc2",
            "self_attn.k_proj": "^fc2",
            "self_attn.v_proj": "^fc2",
            "self_attn.out_proj": "self_attn.v_proj",
            "fc1": "self_attn.out_proj",
            "fc2": "fc1",
        },
    ),
    "gpt_neox": (
        "gpt_neox.layers.{}",
        {
            "attention.query_key_value": "^mlp.dense_4h_to_h",
            "attention.dense": "attention.query_key_value",
            "mlp.dense_h_to_4h": "attention.dense",
            "mlp.dense_4h_to_h": "mlp.dense_h_to_4h",
        },
    ),
    "bloom": (
        "transformer.h.{}",
        {
            "self_attention.query_key_value": "^mlp.dense_4h_to_h",
            "self_attention.dense": "self_attention.query_key_value",
            "mlp.dense_h_to_4h": "self_attention.dense",
            "mlp.dense_4h_to_h": "mlp.dense_h_to_4h",
        },
    ),
    "llama": (
        "model.layers.{}",
        {
            "self_attn.q_proj": "^mlp.down_proj",
            "self_attn.k_proj": "^mlp.down_proj",
            "self_attn.v_proj": "^mlp.down_proj",
            "self_attn.o_proj": "self_attn.v_proj",
            "mlp.gate_proj": "self_attn.o_proj",
            "mlp.up_proj": "self_attn.o_proj",
            "mlp.down_proj": "mlp.up_proj",
        },
    ),
}
BLOCKS |= {"opt-350m": BLOCKS["opt"]} | {n: BLOCKS["llama"] for n in ("qwen2", "qwen3", "mistral")}
BLOCKS |= {n: BLOCKS["bloom"] for n in ("falcon", "falcon-40b", "falcon-rw")}
BLOCKS["gptj"] = (
    "transformer.h.{}",
    {
        "attn.q_proj": "^mlp.fc_out",
        "attn.k_proj": "^mlp.fc_out",
        "attn.v_proj": "^mlp.fc_out",
        "attn.out_proj": "attn.v_proj",
        "mlp.fc_in": "attn.out_proj",
        "mlp.fc_out": "mlp.fc_in",
    },
)
BLOCKS["phi"] = (
    "model.layers.{}",
    {
        "self_attn.q_proj": "^mlp.fc2",
        "self_attn.k_proj": "^mlp.fc2",
        "self_attn.v_proj": "^mlp.fc2",
        "self_attn.dense": "self_attn.v_proj",
        "mlp.fc1": "self_attn.dense",
        "mlp.fc2": "mlp.fc1",
    },
)


@pytest.mark.parametrize("architecture", KNOWN)
def test_order_and_producers(architecture):
    prefix, block = BLOCKS[architecture]
    expected = []
    for i in range(LAYERS):
        for name, source in block.items():
            of_block = i - 1 if source.startswith("^") else i
            full = f"{prefix.format(of_block)}.{source.removeprefix('^')}"
            expected.append((f"{prefix.format(i)}.{name}", full if of_block >= 0 else None))
    if architecture == "opt-350m":
        expected = [
            ("model.decoder.project_in", None),
            *expected,
            ("model.decoder.project_out", None),
        ]
    model = tiny_model(architecture)
    matrices = wiring_of(model).linear
    assert [(m.name, m.producer.site if m.producer else None) for m in matrices] == expected
    assert all(model.get_submodule(m.name) is m.module for m in matrices)
    assert all(m.transposed == (architecture == "gpt2") for m in matrices)


@pytest.mark.parametrize("architecture", KNOWN)
def test_every_linear_layer_but_the_head_is_there(architecture):
    model = tiny_model(architecture)
    found = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | hf.pytorch_utils.Conv1D)
    }
    assert {m.name for m in wiring_of(model).linear} == found - {"lm_head"}


def record(model, module, side):
    """What enters (side 0) or leaves (side 1) a module in one forward pass, last dim flattened."""
    seen = []
    hook = module.register_forward_hook(lambda _, x, y: seen.append((x[0], y)[side].clone()))
    logits(model)
    hook.remove()
    return seen[0].reshape(-1, seen[0].shape[-1])


@pytest.mark.parametrize("architecture", KNOWN)
def test_producer_rows_are_those_of_the_forward_pass(architecture):
    """Where a producer feeds a matrix directly, changing one of its rows changes exactly the input
    dimensions said to come from it. (Through residual and norm there is nothing to see.)"""
    model = tiny_model(architecture)
    by_name = {m.name: m for m in wiring_of(model).linear}
    direct = [m for m in by_name.values() if m.kind in ("attention_output", "down")]
    assert len(direct) == 2 * LAYERS
    for matrix in direct[:2]:
        before = record(model, matrix.module, side=0)
        producer = by_name[matrix.producer.site]
        rows = matrix.producer.rows
        assert len(rows) == before.shape[1]
        for row in rows.unique().tolist():
            weight = producer.parameter.data.T if producer.transposed else producer.parameter.data
            original = weight[row].clone()
            weight[row] += 3.0
            changed = (record(model, matrix.module, side=0) != before).any(0)
            weight[row] = original
            assert set(changed.nonzero().flatten().tolist()) <= set(
                (rows == row).nonzero().flatten().tolist()
            )
            # A ReLU may swallow the change of an FFN unit, never that of a V unit.
            if matrix is direct[0]:
                assert changed.equal(rows == row)


def test_value_rows_by_hand():
    def v_rows(architecture, name):
        return {m.name: m for m in wiring_of(tiny_model(architecture)).linear}[name].producer.rows

    # 4 heads of 6; fused rows head by head: q 0-5, k 6-11, v 12-17, then the next head.
    interleaved = [*range(12, 18), *range(30, 36), *range(48, 54), *range(66, 72)]
    assert v_rows("gpt_neox", "gpt_neox.layers.0.attention.dense").tolist() == interleaved
    assert v_rows("bloom", "transformer.h.1.self_attention.dense").tolist() == interleaved
    assert v_rows("gpt2", "transformer.h.0.attn.c_proj").tolist() == list(range(48, 72))
    # 2 key-value heads of 6, each serving 2 query heads.
    grouped = [*range(6), *range(6), *range(6, 12), *range(6, 12)]
    assert v_rows("llama", "model.layers.0.self_attn.o_proj").tolist() == grouped


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("gpt2", {"transformer.wte": (VOCAB, HIDDEN), "transformer.wpe": (32, HIDDEN)}),
        (
            "opt-350m",
            {
                "model.decoder.embed_tokens": (VOCAB, 16),
                "model.decoder.embed_positions": (34, HIDDEN),
            },
        ),
        ("gpt_neox", {"gpt_neox.embed_in": (VOCAB, HIDDEN), "lm_head": (VOCAB, HIDDEN)}),
        ("bloom", {"transformer.word_embeddings": (VOCAB, HIDDEN)}),
        ("llama", {"model.embed_tokens": (VOCAB, HIDDEN), "lm_head": (VOCAB, HIDDEN)}),
        ("gptj", {"transformer.wte": (VOCAB, HIDDEN), "lm_head": (VOCAB, HIDDEN)}),
    ],
)
def test_embeddings_and_head_with_tied_weights_once(architecture, expected):
    matrices = wiring_of(tiny_model(architecture)).embeddings
    assert {m.name: tuple(m.parameter.shape) for m in matrices} == expected


def test_unknown_architecture_gets_its_linear_layers_in_registration_order():
    model = tiny_model("gemma")
    assert not wiring_of(model).knows_producers
    matrices = wiring_of(model).linear
    layers = [f"self_attn.{x}_proj" for x in "qkvo"]
    layers += [f"mlp.{x}_proj" for x in ("gate", "up", "down")]
    assert [m.name for m in matrices] == [
        f"model.layers.{i}.{layer}" for i in range(LAYERS) for layer in layers
    ]
    assert all(m.producer is None for m in matrices)


def test_unknown_kinds_of_layer_are_refused():
    model = tiny_model("gemma")
    model.model.layers[1].mlp.experts = nn.ParameterList([torch.zeros(2, 4, 4)])
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.experts: unknown layer type"):
        wiring_of(model)
    model = tiny_model("opt")
    model.model.decoder.layers[2].fc1 = nn.Identity()
    with pytest.raises(ValueError, match=r"layers\.2\.fc1: unknown layer type Identity"):
        wiring_of(model)
    model = tiny_model("gemma")
    model.config.num_hidden_layers = 7
    with pytest.raises(ValueError, match="no list of 7 decoder blocks"):
        wiring_of(model)


def test_an_architecture_with_several_lists_of_blocks_is_quantized_whole():
    config = hf.XLMConfig(vocab_size=40, emb_dim=24, n_layers=2, n_heads=4, causal=True)
    model = hf.AutoModelForCausalLM.from_config(config)
    names = {name for name, module in model.named_modules() if type(module) is nn.Linear}
    assert "transformer.ffns.1.lin2" in names
    assert {site.name for site in wiring_of(model).linear} == names - {"pred_layer.proj"}


def test_of_a_model_that_also_sees_the_language_model_is_quantized():
    text = dict(vocab_size=40, hidden_size=24, num_hidden_layers=2, num_attention_heads=4)
    text |= dict(num_key_value_heads=2, intermediate_size=40, head_dim=8)
    vision = dict(hidden_size=16, intermediate_size=20, num_hidden_layers=2)
    vision |= dict(num_attention_heads=2, image_size=28, patch_size=14)
    config = hf.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    wiring = wiring_of(model)
    assert len(wiring.linear) == 2 * 7
    assert all(".language_model.layers." in site.name for site in wiring.linear)
    assert [site.name for site in wiring.embeddings] == ["model.language_model.embed_tokens"]


@pytest.mark.parametrize("architecture", MIXTURES)
def test_experts_are_matrices_of_their_own_and_routers_are_none(architecture):
    model = tiny_model(architecture)
    wiring = wiring_of(model)
    parameters = {id(p): name for name, p in model.named_parameters()}
    matrices = [p for n, p in model.named_parameters() if "_proj" in n and "bias" not in n]
    assert sum(site.weight.numel() for site in wiring.linear) == sum(p.numel() for p in matrices)
    experts = [site for site in wiring.linear if site.expert is not None]
    mixed = LAYERS - (architecture == "qwen2_moe")  # its second layer is dense
    assert len(experts) == mixed * 3 * 2 and not wiring.knows_producers
    assert {site.expert for site in experts} == {0, 1, 2}
    assert all(site.transposed == (architecture == "gpt_oss") for site in experts)
    assert all(site.weight.shape[site.kind == "up"] == HIDDEN for site in experts)
    routers = [parameters[id(site.parameter)] for site in wiring.routers]
    assert all("gate.weight" in n or "router" in n or "_gate" in n for n in routers)
    assert len(routers) == mixed * (2 if architecture == "qwen2_moe" else 1)


def test_readers_of_a_norm_are_all_that_multiplies_its_output():
    def readers(architecture, norm):
        sites = wiring_of(tiny_model(architecture)).readers(norm)
        return [site.name.split(".", 3)[3] for site in sites]

    qkv = [f"self_attn.{x}_proj" for x in "qkv"]
    assert readers("llama", "model.layers.1.input_layernorm") == qkv
    assert readers("qwen2_moe", "model.layers.0.post_attention_layernorm") == [
        *(f"mlp.experts.gate_up_proj.{i}" for i in range(3)),
        "mlp.shared_expert.gate_proj",
        "mlp.shared_expert.up_proj",
        "mlp.gate",
        "mlp.shared_expert_gate",
    ]
    assert readers("falcon", "transformer.h.0.input_layernorm") == [
        "self_attention.query_key_value",
        "mlp.dense_h_to_4h",
    ]
    assert readers("falcon-40b", "transformer.h.0.ln_mlp") == ["mlp.dense_h_to_4h"]
    assert readers("falcon-rw", "transformer.h.0.post_attention_layernorm") == ["mlp.dense_h_to_4h"]
    assert len(readers("gptj", "transformer.h.0.ln_1")) == len(qkv) + 1
    post_norm = wiring_of(tiny_model("opt-350m"))  # the residual stream reads its norms
    assert not any(site.norm for site in post_norm.linear)


@pytest.mark.parametrize("architecture", [*CONFIGS, *MIXTURES])
def test_norms_and_inputs_are_those_of_the_forward_pass(architecture):
    """A site reads the very tensor its norm gave, and that the sites sharing its input read."""
    model = tiny_model(architecture)
    wiring = wiring_of(model)
    inputs, outputs = {}, {}
    sites = [site for site in (*wiring.linear, *wiring.routers) if site.expert is None]
    for site in sites:
        site.module.register_forward_pre_hook(
            lambda _, x, name=site.name: inputs.setdefault(name, x[0].clone())
        )
    for norm in {site.norm for site in sites} - {None}:
        model.get_submodule(norm).register_forward_hook(
            lambda _, x, y, name=norm: outputs.setdefault(name, y.clone())
        )
    logits(model)
    for site in sites:
        if site.norm is not None:
            torch.testing.assert_close(
                inputs[site.name].flatten(), outputs[site.norm].flatten(), rtol=0, atol=0
            )
        if site.input:
            assert torch.equal(inputs[site.name], inputs[site.input])
    if architecture in KNOWN:
        distinct = {site.input for site in wiring.linear}
        shared = [site for site in wiring.linear if site.input != site.name]
        assert len(distinct) + len(shared) == len(wiring.linear)


def test_all_tiny_models_are_tested():
    assert set(BLOCKS) == set(KNOWN) == {n for n in CONFIGS if n != "gemma"}
