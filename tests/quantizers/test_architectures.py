import pytest
import torch
import transformers as hf
from torch import nn

from quantizers.architectures import embedding_matrices, knows_producers, linear_matrices
from tests.quantizers.tiny_models import CONFIGS, HIDDEN, KNOWN, LAYERS, VOCAB, logits, tiny_model

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
    matrices = linear_matrices(model)
    assert [(m.name, m.producer.matrix if m.producer else None) for m in matrices] == expected
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
    assert {m.name for m in linear_matrices(model)} == found - {"lm_head"}


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
    by_name = {m.name: m for m in linear_matrices(model)}
    direct = [
        m
        for m in by_name.values()
        if m.name.endswith(
            ("c_proj", "out_proj", "fc2", "dense", "dense_4h_to_h", "o_proj", "down_proj")
        )
    ]
    assert len(direct) == 2 * LAYERS
    for matrix in direct[:2]:
        before = record(model, matrix.module, side=0)
        producer = by_name[matrix.producer.matrix]
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
        return {m.name: m for m in linear_matrices(tiny_model(architecture))}[name].producer.rows

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
    matrices = embedding_matrices(tiny_model(architecture))
    assert {m.name: tuple(m.parameter.shape) for m in matrices} == expected


def test_unknown_architecture_gets_its_linear_layers_in_registration_order():
    model = tiny_model("gptj")
    assert not knows_producers(model)
    matrices = linear_matrices(model)
    layers = [
        "attn.k_proj",
        "attn.v_proj",
        "attn.q_proj",
        "attn.out_proj",
        "mlp.fc_in",
        "mlp.fc_out",
    ]
    assert [m.name for m in matrices] == [
        f"transformer.h.{i}.{layer}" for i in range(LAYERS) for layer in layers
    ]
    assert all(m.producer is None for m in matrices)


def test_unknown_kinds_of_layer_are_refused():
    model = tiny_model("gptj")
    model.transformer.h[1].mlp.experts = nn.ParameterList([torch.zeros(2, 4, 4)])
    with pytest.raises(ValueError, match=r"transformer\.h\.1\.mlp\.experts: unknown layer type"):
        linear_matrices(model)
    model = tiny_model("opt")
    model.model.decoder.layers[2].fc1 = nn.Identity()
    with pytest.raises(ValueError, match=r"layers\.2\.fc1: unknown layer type Identity"):
        linear_matrices(model)
    model = tiny_model("gptj")
    model.config.n_layer = 7
    with pytest.raises(ValueError, match="no list of 7 decoder blocks"):
        linear_matrices(model)


def test_all_tiny_models_are_tested():
    assert set(BLOCKS) == set(KNOWN) == {n for n in CONFIGS if n != "gptj"}
