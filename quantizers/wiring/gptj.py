"""GPT-J: attention and MLP side by side behind one norm."""

from __future__ import annotations

from typing import Any

import torch

from quantizers.wiring.block import Block


def block(model: Any, i: int) -> Block:
    p = f"transformer.h.{i}"
    return Block(
        qkv=[f"{p}.attn.{x}_proj" for x in "qkv"],
        key=f"{p}.attn.k_proj",
        value=f"{p}.attn.v_proj",
        value_rows=torch.arange(model.config.hidden_size),
        attention_output=f"{p}.attn.out_proj",
        up=[f"{p}.mlp.fc_in"],
        down=f"{p}.mlp.fc_out",
        attention_norm=f"{p}.ln_1",
        mlp_norm=f"{p}.ln_1",
    )
