"""OPT. The 350m model has projections around its blocks, and norms after what they follow, which
the residual stream goes through."""

from __future__ import annotations

from typing import Any

import torch

from quantizers.wiring.block import Block
from quantizers.wiring.site import Site, module_site


def block(model: Any, i: int) -> Block:
    p, pre_norm = f"model.decoder.layers.{i}", model.config.do_layer_norm_before
    return Block(
        qkv=[f"{p}.self_attn.{x}_proj" for x in "qkv"],
        key=f"{p}.self_attn.k_proj",
        value=f"{p}.self_attn.v_proj",
        value_rows=torch.arange(model.config.hidden_size),
        attention_output=f"{p}.self_attn.out_proj",
        up=[f"{p}.fc1"],
        down=f"{p}.fc2",
        attention_norm=f"{p}.self_attn_layer_norm" if pre_norm else None,
        mlp_norm=f"{p}.final_layer_norm" if pre_norm else None,
        up_passes=model.config.activation_function == "relu",
    )


def with_projections(model: Any, sites: list[Site]) -> list[Site]:
    """The sites of all blocks between those of the projections, where there are any."""
    if model.model.decoder.project_in is None:
        return sites
    first, last = (
        module_site(model, f"model.decoder.{name}", "other")
        for name in ("project_in", "project_out")
    )
    return [first, *sites, last]
