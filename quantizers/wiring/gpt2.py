"""GPT-2: Conv1D stores input x output; Q, K, V one after the other in one matrix."""

from __future__ import annotations

from typing import Any

import torch

from quantizers.wiring.block import Block


def block(model: Any, i: int) -> Block:
    p, hidden = f"transformer.h.{i}", model.config.hidden_size
    return Block(
        qkv=[f"{p}.attn.c_attn"],
        value=f"{p}.attn.c_attn",
        value_rows=2 * hidden + torch.arange(hidden),
        key_offset=hidden,
        attention_output=f"{p}.attn.c_proj",
        up=[f"{p}.mlp.c_fc"],
        down=f"{p}.mlp.c_proj",
        attention_norm=f"{p}.ln_1",
        mlp_norm=f"{p}.ln_2",
    )
