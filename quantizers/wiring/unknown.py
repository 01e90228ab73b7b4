"""Architectures without a file of their own: every linear layer of the decoder, or none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from quantizers.wiring.experts import expert_sites, holds_experts, router_names, router_site
from quantizers.wiring.site import Site, module_site


def language_part(model: Any) -> tuple[str, nn.Module]:
    """Name and module of the language model inside one that also sees or hears; else the model."""
    if model.config.get_text_config() is model.config:
        return "", model
    decoder = model.get_decoder()
    return next(name for name, module in model.named_modules() if module is decoder), decoder


def sites_of_unknown(model: Any) -> list[Site]:
    """All linear layers of the decoder in the order of registration, without producers or norms.

    Raises ValueError where the decoder blocks cannot be found, or weights in a kind of layer that
    would be left out lie in them: a model is never quantized in part.
    """
    prefix, root = language_part(model)
    stacks = list(_outermost_lists(root, prefix))
    decoder_blocks(model)
    sites: list[Site] = []
    routers: set[str] = set()
    heads = {id(model.get_output_embeddings())}
    for name, module in root.named_modules(prefix=prefix):
        inside = any(name.startswith(f"{stack}.") for stack, _ in stacks)
        if id(module) in heads or name in routers:
            continue
        routers.update(router_names(name, module))
        if inside and holds_experts(module):
            sites += expert_sites(name, module)
        elif isinstance(module, nn.Linear | Conv1D) and (inside or not _in_head(model, name)):
            sites.append(module_site(model, name, "other"))
        elif inside and not isinstance(module, nn.Embedding):
            _refuse_weights(name, module, model.config.model_type)
    return sites + [router_site(model, name) for name in sorted(routers)]


def decoder_blocks(model: Any) -> list[str]:
    """Names of the decoder blocks, in forward order. Raises ValueError where none can be found."""
    prefix, root = language_part(model)
    n_layers = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    for name, stack in _outermost_lists(root, prefix):
        if len(stack) == n_layers:
            return [f"{name}.{i}" for i in range(len(stack))]
    raise ValueError(
        f"architecture {model.config.model_type!r}: found no list of "
        f"{n_layers} decoder blocks, so no matrices to quantize"
    )


def _outermost_lists(root: nn.Module, prefix: str) -> Iterator[tuple[str, nn.ModuleList]]:
    found: list[str] = []
    for name, module in root.named_modules(prefix=prefix):
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{f}.") for f in found):
            found.append(name)
            yield name, module


def _in_head(model: Any, name: str) -> bool:
    """Whether a layer lies outside the base model: between the last block and the logits."""
    prefix = model.base_model_prefix
    return bool(prefix) and hasattr(model, prefix) and not name.startswith(f"{prefix}.")


def _refuse_weights(name: str, module: nn.Module, architecture: str) -> None:
    if any(parameter.dim() > 1 for parameter in module.parameters(recurse=False)):
        raise ValueError(
            f"{name}: unknown layer type {type(module).__name__} holds weights; "
            f"architecture {architecture!r} cannot be quantized"
        )
