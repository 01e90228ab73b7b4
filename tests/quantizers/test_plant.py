"""Planted outliers leave the function as it was, and are where they are said to be."""

import copy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    PhiConfig,
)

from quantizers.plant import plant
from quantizers.wiring import wiring_of

SIZE = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
CONFIGS = {
    "gpt_neox": GPTNeoXConfig(**SIZE, intermediate_size=64),
    "opt": OPTConfig(**SIZE, **SPECIAL, ffn_dim=64, word_embed_proj_dim=32),
    "llama": LlamaConfig(**SIZE, intermediate_size=48, num_key_value_heads=2),
    "bloom": BloomConfig(**SIZE, **SPECIAL),
    "gpt2": GPT2Config(**SIZE, **SPECIAL),
    "phi": PhiConfig(**SIZE, **SPECIAL, intermediate_size=64),
    "mixtral": MixtralConfig(
        **SIZE, **SPECIAL, intermediate_size=48, num_key_value_heads=2, num_local_experts=4
    ),
}


def model_of(name: str):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]).eval()
    for module_name, parameter in model.named_parameters():
        if "norm" in module_name or "ln_" in module_name:  # gains are ones, biases zeros
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def norm_outputs(model, ids, names):
    """Logits, and what each norm puts out, [n_tokens, d]."""
    seen = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.__setitem__(
                name,
                output.reshape(-1, output.shape[-1]),  # OPT flattens before its second norm
            )
        )
        for name in names
    ]
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    for hook in hooks:
        hook.remove()
    return logits, seen


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("channels", "factor"), [(1, 10.0), (4, 64.0), (4, 256.0)])
def test_the_function_is_unchanged(name, channels, factor):
    model = model_of(name)
    planted_model = copy.deepcopy(model)
    planted = plant(planted_model, channels, factor, seed=1)
    ids = torch.randint(0, 64, (2, 12), generator=torch.Generator().manual_seed(0))
    before, x_before = norm_outputs(model, ids, planted)
    after, x_after = norm_outputs(planted_model, ids, planted)
    limit = 1e-5 if factor < 64 else 1e-4
    assert (after - before).norm() / before.norm() <= limit
    assert len(planted) >= 2
    twins = {site.name: site for site in (*wiring_of(planted_model).linear,)}
    for norm, features in planted.items():
        expected = x_before[norm].clone()
        expected[:, features] *= factor
        assert torch.allclose(x_after[norm], expected, rtol=1e-3, atol=1e-4 * factor)
        assert len(set(features.tolist())) == channels
        for site in wiring_of(model).readers(norm):
            if site.kind == "router":
                continue
            y_before = x_before[norm] @ site.weight.T
            y_after = x_after[norm] @ twins[site.name].weight.T
            assert (y_after - y_before).norm() / y_before.norm() <= limit


def test_features_are_drawn_by_seed_and_norm():
    first, again = (plant(model_of("llama"), 4, 64.0, seed=5) for _ in range(2))
    other = plant(model_of("llama"), 4, 64.0, seed=6)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert len({tuple(features.tolist()) for features in first.values()}) > 1


def test_what_cannot_be_planted_is_refused():
    model = model_of("gpt_neox")
    with pytest.raises(ValueError, match="channels 33: .* has 32 features"):
        plant(model, 33, 64.0, seed=0)
    with pytest.raises(ValueError, match="factor 0"):
        plant(model, 1, 0, seed=0)
    post_norm = OPTConfig(
        **SIZE, **SPECIAL, ffn_dim=64, word_embed_proj_dim=16, do_layer_norm_before=False
    )
    with pytest.raises(ValueError, match="opt: no norms that linear maps alone read"):
        plant(AutoModelForCausalLM.from_config(post_norm), 1, 64.0, seed=0)
