"""What a model that was loaded must be before anything is scored with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from quantizers.blockwise import sixteen_bit
from quantizers.checkpoint import UnusableModel, listed

# Keys of old checkpoints for what is computed today: masks of attention, position numbers, rotary
# and sinusoidal tables, versions of their format.
# `transformers` adds its own for each architecture (second heads, vision towers, ...).
_HARMLESS = re.compile(
    r"(^|\.)(attn|attention)\.(bias|masked_bias)$|(^|\.)(causal_mask|position_ids|masked_bias)$"
    r"|rotary_emb\.(inv_freq|cos_cached|sin_cached)$|(^|\.)embed_positions\.weights$"
    r"|(^|\.)version$"
)


@torch.no_grad()
def check_causal(model: Any) -> None:
    """Raises UnusableModel for a model whose first token's logits depend on later tokens, and for
    one that computes NaN.

    The former (an encoder, a permutation model) has seen the answer it is scored on; the latter
    mostly holds constants beyond float16, such as Reformer's masks of -1e9. Call it on a model that
    can compute; it reads eight tokens.
    """
    embeddings = model.get_input_embeddings().weight
    ids = torch.tensor([[1, 2, 3, 4], [1, 7, 6, 5]], device=embeddings.device)
    # Apart and of equal length, so that only what a token sees can differ.
    logits = [model(input_ids=row[None] % len(embeddings), use_cache=False).logits for row in ids]
    if any(found.isnan().any() for found in logits):
        raise UnusableModel(f"{type(model).__name__} computes NaN from finite weights{_why(model)}")
    first, second = (found[0, 0] for found in logits)
    # Rounding may differ where tokens share a batch, as in mixtures of experts.
    tolerance = max(1e-4, 4 * torch.finfo(first.dtype).eps) * first.abs().max()
    if ((first - second).abs() > tolerance).any():
        raise UnusableModel(
            f"{type(model).__name__} looks ahead: the logits of a first token change with later "
            "tokens, so it is no causal language model and cannot be scored as one"
        )


def check_says_causal(model: Any) -> None:
    """As `check_causal`, of a model without weights: by what its attention says of itself, where it
    says anything."""
    said = {module.is_causal for module in model.modules() if hasattr(module, "is_causal")}
    if said == {False}:
        raise UnusableModel(f"{type(model).__name__} looks ahead: it is no causal language model")


def _why(model: nn.Module) -> str:
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and not buffer.isfinite().all():
            return f": its constant {name} is not finite, as beyond float16; set dtype: bfloat16"
    return ""


def key_problem(report: Mapping[str, Any]) -> str | None:
    """What a checkpoint lacks or has too much of; tied weights are stored once and lack nothing."""
    missing = set(report["missing_keys"])
    unexpected = {key for key in report["unexpected_keys"] if not _HARMLESS.search(key)}
    shapes = {
        f"{key} ({list(stored)}, the model's {list(wanted)})"
        for key, stored, wanted in report["mismatched_keys"]
    }
    parts = []
    if missing:
        parts.append(f"lacks {_counted(missing)}: {listed(missing)}")
    if shapes:
        parts.append(f"has {_counted(shapes)} of another shape: {listed(shapes)}")
    if unexpected:
        parts.append(
            f"has {_counted(unexpected)} that the model has no place for: {listed(unexpected)}"
        )
    return "; ".join(parts) or None


def _counted(keys: set[str]) -> str:
    return f"{len(keys)} key{'s' if len(keys) > 1 else ''}"


def not_finite(model: nn.Module, dtype: torch.dtype) -> tuple[str, str] | None:
    """The first parameter that is not finite in 16 bit, and which of `NaN` and `inf` it holds."""
    for name, parameter in model.named_parameters():
        if not parameter.numel() or not parameter.is_floating_point() or parameter.is_meta:
            continue
        # Modules that `transformers` keeps in fp32 are rounded like the others before scoring.
        extremes = torch.stack(torch.aminmax(parameter.data)).to(sixteen_bit(dtype))
        if not torch.isfinite(extremes).all():
            return name, "NaN" if torch.isnan(extremes).any() else "inf"
    return None


def check_vocabulary(model: Any, tokenizer: Any) -> None:
    """A tokenizer may lack tokens (embeddings are padded by a few percent) and may have special
    ones beyond the embeddings, which no text contains; else it is another model's."""
    rows = model.get_input_embeddings().weight.shape[0]
    beyond = {index for index in tokenizer.get_vocab().values() if index >= rows}
    if len(tokenizer) < 0.75 * rows - 256 or not beyond <= set(tokenizer.all_special_ids):
        raise UnusableModel(
            f"{len(tokenizer)} tokens in the tokenizer, {rows} embeddings in the model; give the "
            "matching `tokenizer:` in models.yaml"
        )
