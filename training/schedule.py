"""The learning rate of every step, and which windows of the text it sees."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training.recipe import Recipe


def learning_rate_at(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then the schedule: cosine decay to `final_lr_fraction` of the peak, no decay,
    or linear decay to it over the last `decay_fraction` of the steps."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    if recipe.schedule == "constant":
        return recipe.learning_rate
    if recipe.schedule == "constant-decay":
        decay_steps = max(1, round(recipe.decay_fraction * recipe.steps))
        remaining = min(1.0, (recipe.steps - step) / decay_steps)
    else:
        progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
        remaining = 0.5 * (1 + math.cos(math.pi * progress))
    return recipe.learning_rate * (
        recipe.final_lr_fraction + (1 - recipe.final_lr_fraction) * remaining
    )


def batch_at(step: int, stream: Tensor, recipe: Recipe) -> Tensor:
    """Windows at random starts: int64 [batch_size, context + 1]. Depends on seed and step alone,
    so that variants of one seed see the same text."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    starts = torch.randint(len(stream) - recipe.context, (recipe.batch_size,), generator=generator)
    return stream[starts[:, None] + torch.arange(recipe.context + 1)]
