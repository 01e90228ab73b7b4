"""LLM-QAT (Liu et al. 2023): a model learns to compute with few bits what it computed with 16.

Trained are all parameters, against the 16-bit model's own distribution over the next token (KL), on
text that it writes; rounding passes gradients straight through. AdamW without decay, cosine.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from quantizers.resident import ResidentModel
from quantizers.setting import Setting
from quantizers.undo import UndoLog
from training.fake_quantization import Widths, fake_quantize
from training.generation import generated

ROWS_AT_ONCE = 64  # of text that is written
REPORT_EVERY = 50


@dataclass(frozen=True)
class QatRecipe:
    """What a run depends on beside the model. Raises ValueError, naming the field."""

    widths: Widths
    steps: int = 200
    batch_size: int = 8
    length: int = 256  # tokens a sequence
    learning_rate: float = 2e-5
    seed: int = 0

    def __post_init__(self) -> None:
        _ = self.widths.setting
        for name in ("steps", "batch_size", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: must be above 0")
        if self.length < 2:
            raise ValueError("length: must be at least 2 tokens")

    @property
    def tokens(self) -> int:
        """Read in all steps."""
        return self.steps * self.batch_size * self.length

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def qat(model: Any, recipe: QatRecipe, log: Callable[[str], None] = print) -> list[float]:
    """Train `model` in place (in fp32, on its device); the losses of the steps, nats a token.

    Raises ValueError as `fake_quantize` does, and for a loss that is not finite.
    """
    teacher = copy.deepcopy(model).eval().requires_grad_(False)
    model.eval().requires_grad_(True)  # no dropout: the teacher has none
    rounding = UndoLog(torch.float16)
    fake_quantize(model, recipe.widths, rounding)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    generator = torch.Generator().manual_seed(recipe.seed)
    losses: list[float] = []
    text = torch.empty(0, recipe.length, dtype=torch.int64)
    try:
        for step in range(recipe.steps):
            if len(text) < recipe.batch_size:
                rows = max(ROWS_AT_ONCE, recipe.batch_size)
                text = torch.cat([text, generated(teacher, rows, recipe.length, generator)])
            batch, text = text[: recipe.batch_size], text[recipe.batch_size :]
            loss = _divergence(model, teacher, batch.to(model.device))
            if not torch.isfinite(loss):
                raise ValueError(f"step {step + 1}: the loss is {loss.item()}; lower learning_rate")
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
            if (step + 1) % REPORT_EVERY == 0:
                log(f"step {step + 1}/{recipe.steps}  divergence {loss.item():.5f} nats/token")
    finally:
        rounding.undo()
        model.requires_grad_(False)
    return losses


def _divergence(model: Any, teacher: Any, batch: Tensor) -> Tensor:
    """KL(16 bit || few bits) of the next token, mean over all positions."""
    with torch.no_grad():
        wanted = log_softmax(teacher(batch, use_cache=False).logits.float(), -1)
    found = log_softmax(model(batch, use_cache=False).logits.float(), -1)
    return kl_div(found.flatten(0, 1), wanted.flatten(0, 1), log_target=True, reduction="batchmean")


@dataclass(frozen=True)
class Comparison:
    """Held-out losses before and after, nats a token, at one setting, over the same windows."""

    before: float
    after: float
    difference: float  # after - before
    stderr: float  # of the difference, paired by window
    n_windows: int
    tokens: int


@torch.no_grad()
def window_losses(model: Any, setting: Setting, stream: Tensor, context: int) -> Tensor:
    """fp64 [windows], nats a token of each whole window of `context` + 1 tokens, as a resident
    model of that setting scores them. The model is left in the 16-bit type's values."""
    resident = ResidentModel(model, compute_dtype=torch.float32)
    resident.apply(setting)
    windows = stream[: len(stream) // (context + 1) * (context + 1)].view(-1, context + 1)
    losses = []
    for window in windows.to(model.device).split(4):
        logits = model(window[:, :-1], use_cache=False).logits.double()
        wanted = window[:, 1:, None]
        losses.append(-log_softmax(logits, -1).gather(-1, wanted)[..., 0].mean(1))
    resident.undo()
    return torch.cat(losses).cpu()


def compared(before: Tensor, after: Tensor, context: int) -> Comparison:
    """Of losses by window. Raises ValueError for fewer than two windows."""
    n = len(before)
    if n < 2:
        raise ValueError(f"held-out text: {n} windows of {context + 1} tokens; two are needed")
    difference = after - before
    return Comparison(
        float(before.mean()),
        float(after.mean()),
        float(difference.mean()),
        float(difference.std()) / n**0.5,
        n,
        n * context,
    )
