"""From the names in a decoder block to sites: their order, producers, norms and shared inputs.

Proxy quantization needs, for every input dimension of a matrix, the unit that produces it: a row
of an earlier matrix. Per block the order is QKV, attention output, FFN1, FFN2 (paper, section 3):

    previous block's FFN2 -> QKV;  V -> attention output;  attention output -> FFN1 -> FFN2

Blocks with parallel attention and FFN (GPT-NeoX) keep this order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from quantizers.wiring.experts import expert_sites, router_names, router_site
from quantizers.wiring.site import Producer, Site, module_site


@dataclass(frozen=True)
class Block:
    """Module names of one decoder block. Norms are None where others than linear maps read them."""

    qkv: Sequence[str]
    value: str  # the matrix that holds V ...
    value_rows: Tensor  # ... and its row behind each input dimension of the attention output
    attention_output: str
    up: Sequence[str]  # the last one feeds `down`
    down: str | None  # None: experts alone
    attention_norm: str | None
    mlp_norm: str | None
    mixture: str | None = None  # the module that holds routers and `experts`, if any
    key: str | None = None  # the matrix that holds K, where it is not that of V ...
    key_offset: int = 0  # ... whose rows are V's less this many
    up_passes: bool = False  # what `down` reads is linear in what the last of `up` gives, or ReLU


def interleaved_value_rows(heads: int, head_dim: int) -> Tensor:
    """V's rows of a fused matrix laid out head by head as (q, k, v), each head_dim rows."""
    head = torch.arange(heads).repeat_interleave(head_dim)
    return head * 3 * head_dim + 2 * head_dim + torch.arange(head_dim).repeat(heads)


def grouped_value_rows(heads: int, kv_heads: int, head_dim: int) -> Tensor:
    """V's rows where each V head serves its whole group of neighbouring query heads."""
    kv_head = torch.arange(heads).div(heads // kv_heads, rounding_mode="floor")
    return kv_head.repeat_interleave(head_dim) * head_dim + torch.arange(head_dim).repeat(heads)


def sites_of_blocks(model: Any, blocks: Sequence[Block]) -> list[Site]:
    """The sites of decoder blocks in forward order, routers before their experts.

    Experts have no single producer: models with any have none at all.
    """
    sites: list[Site] = []
    inputs: dict[str, str] = {}
    mixed = any(block.mixture for block in blocks)

    def add(names: Sequence[str], kind: str, norm: str | None, source: str | None) -> None:
        for name in names:
            site = module_site(model, name, kind)
            shared = inputs.setdefault(norm or names[0], names[0])
            produced = None
            if source is not None and not mixed:
                produced = Producer(source, torch.arange(site.weight.shape[1]))
            sites.append(replace(site, norm=norm, input=shared, producer=produced))

    previous: str | None = None
    for block in blocks:
        first = len(sites)
        add(block.qkv, "qkv", block.attention_norm, previous)
        sites[first:] = [_cached(site, block) for site in sites[first:]]
        add([block.attention_output], "attention_output", None, block.value)
        if not mixed:
            values = Producer(block.value, block.value_rows, passes=True)
            sites[-1] = replace(sites[-1], producer=values)
        if block.mixture is not None:
            sites += _mixture_sites(model, block.mixture, block.mlp_norm)
        add(block.up, "up", block.mlp_norm, block.attention_output)
        if block.down is not None:
            add([block.down], "down", None, block.up[-1])
            if sites[-1].producer is not None:
                units = replace(sites[-1].producer, passes=block.up_passes)
                sites[-1] = replace(sites[-1], producer=units)
        previous = block.down
    return sites


def _cached(site: Site, block: Block) -> Site:
    """A site with the rows of it that the key-value cache keeps."""
    values = block.value_rows.unique()
    keys = values - block.key_offset if site.name == (block.key or block.value) else None
    return replace(site, keys=keys, values=values if site.name == block.value else None)


def _mixture_sites(model: Any, name: str, norm: str | None) -> list[Site]:
    mixture = model.get_submodule(name)
    experts = expert_sites(f"{name}.experts", mixture.experts)
    readers = [router_site(model, router) for router in router_names(name, mixture)] + experts
    return [replace(site, norm=None if site.kind == "down" else norm) for site in readers]
