"""How the architectures are wired: which matrices there are, what feeds each, which norm it reads.

One file an architecture names the parts of a block; an architecture without a file is quantized
whole, without what needs wiring (proxy outliers, folding), or refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from quantizers.architectures import WIRED
from quantizers.wiring import bloom, falcon, gpt2, gpt_neox, gptj, llama, opt, phi
from quantizers.wiring.block import sites_of_blocks
from quantizers.wiring.site import KINDS, Producer, Site, block_of
from quantizers.wiring.unknown import language_part, sites_of_unknown

__all__ = ["KINDS", "Producer", "Site", "Wiring", "block_of", "wiring_of"]

_BLOCKS = {
    "bloom": bloom.block,
    "falcon": falcon.block,
    "gpt2": gpt2.block,
    "gpt_neox": gpt_neox.block,
    "gpt_oss": llama.block,
    "gptj": gptj.block,
    "llama": llama.block,
    "mistral": llama.block,
    "mixtral": llama.block,
    "olmoe": llama.block,
    "opt": opt.block,
    "phi": phi.block,
    "qwen2": llama.block,
    "qwen2_moe": llama.block,
    "qwen3": llama.block,
    "qwen3_moe": llama.block,
}


@dataclass(frozen=True)
class Wiring:
    """The matrices of a model in forward order."""

    architecture: str
    linear: tuple[Site, ...]  # attention and FFN projections, and those around the blocks
    embeddings: tuple[Site, ...]  # what scope "all" adds: embeddings and output head
    routers: tuple[Site, ...]  # always 16 bit, but readers of a norm
    whole: Wiring | None = None  # of which this is a part

    def in_scope(self, scope: str) -> tuple[Site, ...]:
        """What a setting of that scope quantizes."""
        return self.linear + self.embeddings if scope == "all" else self.linear

    @property
    def knows_producers(self) -> bool:
        """Whether proxy quantization can be done."""
        return any(site.producer for site in (self.whole or self).linear)

    @property
    def blocks(self) -> list[str]:
        """Names of the decoder blocks, in forward order."""
        found = [block_of(site.name) for site in self.linear]
        return list(dict.fromkeys(name for name in found if name is not None))

    @property
    def n_linear(self) -> int:
        """Weights in scope `linear`."""
        return sum(site.weight.numel() for site in self.linear)

    @property
    def knows_norms(self) -> bool:
        """Whether there is a file of its architecture, which says what reads its norms."""
        return self.architecture in WIRED

    def readers(self, norm: str) -> list[Site]:
        """Every matrix that multiplies the output of a norm, quantized or not."""
        return [site for site in (*self.linear, *self.routers) if site.norm == norm]


def wiring_of(model: Any) -> Wiring:
    """The wiring of a `transformers` causal LM.

    Raises ValueError where decoder blocks cannot be found, or hold weights in a kind of layer that
    would be left out.
    """
    kind = model.config.model_type
    if kind in _BLOCKS:
        blocks = [_BLOCKS[kind](model, i) for i in range(model.config.num_hidden_layers)]
        sites = sites_of_blocks(model, blocks)
        sites = opt.with_projections(model, sites) if kind == "opt" else sites
    else:
        sites = sites_of_unknown(model)
    return Wiring(
        architecture=kind,
        linear=tuple(site for site in sites if site.kind != "router"),
        embeddings=tuple(_embedding_sites(model)),
        routers=tuple(site for site in sites if site.kind == "router"),
    )


def _embedding_sites(model: Any) -> list[Site]:
    """All embeddings (token and learned position) of the language model, and the output head.

    A head tied to the token embedding is the same matrix and appears once, as the embedding.
    """
    prefix, root = language_part(model)
    named = root.named_modules(prefix=prefix)
    modules = [(name, module, "embedding") for name, module in named if _embeds(module)]
    head = model.get_output_embeddings()
    modules += [(name, module, "head") for name, module in model.named_modules() if module is head]
    unique = {id(module.weight): (name, module, kind) for name, module, kind in reversed(modules)}
    return [
        Site(name, module, module.weight, kind, input=name)  # type: ignore[arg-type]
        for name, module, kind in reversed(unique.values())
    ]


def _embeds(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding)
