"""Falcon: one norm or two before attention and MLP, side by side or in turn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quantizers.wiring.block import Block, interleaved_value_rows


def block(model: Any, i: int) -> Block:
    p, layer = f"transformer.h.{i}", model.transformer.h[i]
    qkv = f"{p}.self_attention.query_key_value"
    attention_norm = "ln_attn" if hasattr(layer, "ln_attn") else "input_layernorm"
    own = [norm for norm in ("ln_mlp", "post_attention_layernorm") if hasattr(layer, norm)]
    return Block(
        qkv=[qkv],
        value=qkv,
        value_rows=_value_rows(layer.self_attention),
        key_offset=layer.self_attention.head_dim,
        attention_output=f"{p}.self_attention.dense",
        up=[f"{p}.mlp.dense_h_to_4h"],
        down=f"{p}.mlp.dense_4h_to_h",
        attention_norm=f"{p}.{attention_norm}",
        mlp_norm=f"{p}.{own[0] if own else attention_norm}",
    )


def _value_rows(attention: Any) -> Tensor:
    """V's row behind each input dimension of the attention output, in the three fused layouts."""
    heads, head_dim = attention.num_heads, attention.head_dim
    unit = torch.arange(head_dim).repeat(heads)
    if attention.new_decoder_architecture:  # groups of (their queries, k, v)
        size = heads // attention.num_kv_heads
        group = torch.arange(heads).div(size, rounding_mode="floor").repeat_interleave(head_dim)
        return (group * (size + 2) + size + 1) * head_dim + unit
    if attention.multi_query:  # all queries, one k, one v
        return (heads + 1) * head_dim + unit
    return interleaved_value_rows(heads, head_dim)
