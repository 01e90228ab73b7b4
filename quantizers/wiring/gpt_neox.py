"""GPT-NeoX and Pythia: attention and MLP side by side, each with a norm of its own."""

from __future__ import annotations

from typing import Any

from quantizers.wiring.block import Block, interleaved_value_rows


def block(model: Any, i: int) -> Block:
    p, heads = f"gpt_neox.layers.{i}", model.config.num_attention_heads
    qkv = f"{p}.attention.query_key_value"
    return Block(
        qkv=[qkv],
        value=qkv,
        value_rows=interleaved_value_rows(heads, model.config.hidden_size // heads),
        key_offset=model.config.hidden_size // heads,
        attention_output=f"{p}.attention.dense",
        up=[f"{p}.mlp.dense_h_to_4h"],
        down=f"{p}.mlp.dense_4h_to_h",
        attention_norm=f"{p}.input_layernorm",
        mlp_norm=f"{p}.post_attention_layernorm",
    )
