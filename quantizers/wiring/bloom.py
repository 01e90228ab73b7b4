"""BLOOM and BLOOMZ; in some the residual stream continues behind the norm."""

from __future__ import annotations

from typing import Any

from quantizers.wiring.block import Block, interleaved_value_rows


def block(model: Any, i: int) -> Block:
    p, heads = f"transformer.h.{i}", model.config.n_head
    qkv = f"{p}.self_attention.query_key_value"
    free = not model.config.apply_residual_connection_post_layernorm
    return Block(
        qkv=[qkv],
        value=qkv,
        value_rows=interleaved_value_rows(heads, model.config.hidden_size // heads),
        key_offset=model.config.hidden_size // heads,
        attention_output=f"{p}.self_attention.dense",
        up=[f"{p}.mlp.dense_h_to_4h"],
        down=f"{p}.mlp.dense_4h_to_h",
        attention_norm=f"{p}.input_layernorm" if free else None,
        mlp_norm=f"{p}.post_attention_layernorm" if free else None,
    )
