"""Phi 1 to 2: attention and MLP side by side behind one norm."""

from __future__ import annotations

from typing import Any

from quantizers.wiring.block import Block, grouped_value_rows


def block(model: Any, i: int) -> Block:
    p, config = f"model.layers.{i}", model.config
    head_dim = model.get_submodule(f"{p}.self_attn").head_dim
    return Block(
        qkv=[f"{p}.self_attn.{x}_proj" for x in "qkv"],
        key=f"{p}.self_attn.k_proj",
        value=f"{p}.self_attn.v_proj",
        value_rows=grouped_value_rows(
            config.num_attention_heads, config.num_key_value_heads, head_dim
        ),
        attention_output=f"{p}.self_attn.dense",
        up=[f"{p}.mlp.fc1"],
        down=f"{p}.mlp.fc2",
        attention_norm=f"{p}.input_layernorm",
        mlp_norm=f"{p}.input_layernorm",
    )
