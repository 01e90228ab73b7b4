"""Llama and its kin (Mistral, Qwen 2 and 3), with a gated MLP or a mixture of experts."""

from __future__ import annotations

from typing import Any

from quantizers.wiring.block import Block, grouped_value_rows


def block(model: Any, i: int) -> Block:
    p = f"model.layers.{i}"
    heads, kv_heads = model.config.num_attention_heads, model.config.num_key_value_heads
    mlp = model.get_submodule(f"{p}.mlp")
    mixed = hasattr(mlp, "experts")
    dense = f"{p}.mlp.shared_expert" if hasattr(mlp, "shared_expert") else f"{p}.mlp"
    has_dense = not mixed or hasattr(mlp, "shared_expert")
    return Block(
        qkv=[f"{p}.self_attn.{x}_proj" for x in "qkv"],
        key=f"{p}.self_attn.k_proj",
        value=f"{p}.self_attn.v_proj",
        value_rows=grouped_value_rows(
            heads, kv_heads, model.get_submodule(f"{p}.self_attn").head_dim
        ),
        attention_output=f"{p}.self_attn.o_proj",
        up=[f"{dense}.gate_proj", f"{dense}.up_proj"] if has_dense else [],
        down=f"{dense}.down_proj" if has_dense else None,
        attention_norm=f"{p}.input_layernorm",
        mlp_norm=f"{p}.post_attention_layernorm",
        mixture=f"{p}.mlp" if mixed else None,
        up_passes=True,  # act(gate) * up
    )
