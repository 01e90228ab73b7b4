"""The transformers model that a recipe trains, and where it adds to its residual stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import dropout
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PretrainedConfig,
)

from training.recipe import Recipe

Values = dict[str, Any]


def make_model(recipe: Recipe, end_of_text_id: int) -> Any:
    """A causal language model with weights drawn from torch's generator, in fp32, training."""
    model = AutoModelForCausalLM.from_config(model_config(recipe, end_of_text_id))
    if recipe.dropout:
        for module in residual_writers(model, recipe.architecture):
            module.register_forward_hook(_dropped(recipe.dropout))
    return model.train()


def residual_writers(model: nn.Module, architecture: str) -> list[nn.Module]:
    """The linear layers whose outputs are added to the residual stream, two a block."""
    attention, mlp = _WRITERS[architecture]
    return [m for name, m in model.named_modules() if name.endswith((attention, mlp))]


def norm_gains(model: nn.Module) -> list[nn.Parameter]:
    """The gains of all norms."""
    norms = [m for m in model.modules() if type(m).__name__.endswith(("LayerNorm", "RMSNorm"))]
    return [norm.get_parameter("weight") for norm in norms]


def model_config(recipe: Recipe, end_of_text_id: int) -> PretrainedConfig:
    """The configuration. No dropout of its own: each architecture has it at other places."""
    # "small init" (Nguyen & Salazar 2019), which GPT-NeoX uses: sqrt(2 / 5h).
    init_std = (2 / (5 * recipe.hidden_size)) ** 0.5
    common: Values = {
        "vocab_size": recipe.vocab_size,
        "hidden_size": recipe.hidden_size,
        "num_hidden_layers": recipe.n_layers,
        "num_attention_heads": recipe.n_heads,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "bos_token_id": end_of_text_id,
        "eos_token_id": end_of_text_id,
    }
    return _CONFIGS[recipe.architecture](recipe, init_std, common)


def _gpt_neox(recipe: Recipe, init_std: float, common: Values) -> PretrainedConfig:
    return GPTNeoXConfig(
        **common,
        intermediate_size=4 * recipe.hidden_size,
        max_position_embeddings=recipe.context,
        hidden_dropout=0.0,
        initializer_range=init_std,
    )


def _opt(recipe: Recipe, init_std: float, common: Values) -> PretrainedConfig:
    return OPTConfig(
        **common,
        word_embed_proj_dim=recipe.hidden_size,
        ffn_dim=4 * recipe.hidden_size,
        max_position_embeddings=recipe.context,
        dropout=0.0,
        init_std=init_std,
        pad_token_id=common["eos_token_id"],
    )


def _llama(recipe: Recipe, init_std: float, common: Values) -> PretrainedConfig:
    h, kv_heads = recipe.hidden_size, recipe.kv_heads or recipe.n_heads
    # Gate, up and down share what q, o and the narrower k, v leave of 13 h^2 a block, as Llama 2
    # widens the FFN of its models with grouped queries.
    attention = 2 * h * h + 2 * h * kv_heads * (h // recipe.n_heads)
    return LlamaConfig(
        **common,
        num_key_value_heads=kv_heads,
        intermediate_size=(13 * h * h - attention) // (3 * h),
        max_position_embeddings=recipe.context,
        initializer_range=init_std,
    )


def _bloom(recipe: Recipe, init_std: float, common: Values) -> PretrainedConfig:
    return BloomConfig(
        **common,
        hidden_dropout=0.0,
        initializer_range=init_std,
        pad_token_id=common["eos_token_id"],
    )


def _gpt2(recipe: Recipe, init_std: float, common: Values) -> PretrainedConfig:
    del common["attention_dropout"]
    return GPT2Config(
        **common,
        n_positions=recipe.context,
        activation_function="gelu",
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        initializer_range=init_std,
    )


_CONFIGS: dict[str, Callable[[Recipe, float, Values], PretrainedConfig]] = {
    "bloom": _bloom,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "llama": _llama,
    "opt": _opt,
}
_WRITERS = {
    "bloom": ("self_attention.dense", "mlp.dense_4h_to_h"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "gpt_neox": ("attention.dense", "mlp.dense_4h_to_h"),
    "llama": ("self_attn.o_proj", "mlp.down_proj"),
    "opt": ("self_attn.out_proj", ".fc2"),
}


def _dropped(probability: float) -> Callable[[nn.Module, Any, torch.Tensor], torch.Tensor]:
    def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return dropout(output, probability, module.training)

    return hook
