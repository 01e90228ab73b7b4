"""One training run in memory: model, optimizer and whatever else its next step depends on."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from training.architectures import make_model, norm_gains
from training.errors import Diverged
from training.half import MasterWeights, half_arithmetic
from training.recipe import ClipNorm, Recipe
from training.schedule import batch_at, learning_rate_at

MEDIAN_OF_AT_LEAST = 20  # norms: before that a clip by the run's own median does nothing


@dataclass
class History:
    """What happened so far. Losses in nats per token, one a step that was not skipped."""

    step: int = 0
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)  # of the gradient, before it is clipped
    clipped: int = 0
    skipped: list[int] = field(default_factory=list)  # steps whose fp16 gradient overflowed
    loss_scale: float = 1.0
    good_steps: int = 0  # since the loss scale changed


class TrainingRun:
    """A run of `recipe` on a stream of tokens. Two with the same state take the same steps.

    Bit for bit on one kind of CPU with the recipe's number of threads; on a GPU up to its atomics.
    """

    def __init__(self, recipe: Recipe, stream: Tensor, end_of_text_id: int) -> None:
        self.recipe, self.stream = recipe, stream
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(recipe.seed)
        self.model = make_model(recipe, end_of_text_id).to(self.device)
        self.weights = MasterWeights(self.model, recipe.dtype)
        self.optimizer = torch.optim.AdamW(
            self._parameter_groups(), lr=recipe.learning_rate, betas=recipe.betas, fused=True
        )
        self.history = History(loss_scale=recipe.loss_scale if recipe.dtype == "fp16" else 1.0)

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Weight decay acts on matrices, and on the norms' gains if the recipe says so."""
        gains = {id(p) for p in norm_gains(self.model)} if self.recipe.decay_norms else set()
        decayed = [p for p in self.model.parameters() if p.dim() >= 2 or id(p) in gains]
        others = [p for p in self.model.parameters() if p.dim() < 2 and id(p) not in gains]
        return [
            {"params": self.weights.masters(decayed), "weight_decay": self.recipe.weight_decay},
            {"params": self.weights.masters(others), "weight_decay": 0.0},
        ]

    def step(self) -> None:
        """One batch, one update. Raises Diverged where loss or gradient is no number."""
        history, recipe = self.history, self.recipe
        batch = batch_at(history.step, self.stream, recipe).to(self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(history.step, recipe)
        loss = self._backward(batch)
        history.step += 1
        self.weights.take_gradients(history.loss_scale)
        gradients = [p.grad for p in self.weights.parameters if p.grad is not None]
        total_norm = get_total_norm(gradients)
        norm = total_norm.item()
        if math.isfinite(norm) and math.isfinite(loss):
            self._update(total_norm)
            history.losses.append(loss)
            history.norms.append(norm)
        elif recipe.dtype == "fp16" and math.isfinite(loss) and history.loss_scale > 1:
            history.skipped.append(history.step)
            history.loss_scale /= 2
            history.good_steps = 0
        else:
            raise Diverged(f"step {history.step}: loss {loss}, gradient norm {norm}")
        self.optimizer.zero_grad(set_to_none=True)

    def _backward(self, batch: Tensor) -> float:
        """Gradients of the mean loss, times the loss scale; returns the loss."""
        with half_arithmetic(self.recipe.dtype, self.device):
            logits = self.model(input_ids=batch[:, :-1], use_cache=False).logits.float()
            loss = cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            scaled = loss * self.history.loss_scale if self.history.loss_scale != 1 else loss
            scaled.backward()
        return loss.item()

    def _update(self, total_norm: Tensor) -> None:
        history, recipe = self.history, self.recipe
        limit = clip_limit(recipe.clip_norm, history.norms)
        if limit is not None:
            clip_grads_with_norm_(self.weights.parameters, limit, total_norm)
            history.clipped += total_norm.item() > limit
        self.optimizer.step()
        self.weights.publish()
        history.good_steps += 1
        if recipe.dtype == "fp16" and history.good_steps == recipe.loss_scale_growth:
            history.loss_scale *= 2
            history.good_steps = 0

    def state(self) -> dict[str, Any]:
        """All that the next step depends on, for torch.save."""
        return {
            "recipe": self.recipe.as_dict(),
            "weights": [p.detach() for p in self.weights.parameters],
            "optimizer": self.optimizer.state_dict(),
            "history": asdict(self.history),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same recipe."""
        for parameter, saved in zip(self.weights.parameters, state["weights"], strict=True):
            parameter.copy_(saved)
        self.weights.publish()
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = History(**state["history"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"])


def clip_limit(clip: ClipNorm, norms: list[float]) -> float | None:
    """The gradient norm above which this step is clipped, given those of the steps before."""
    if not isinstance(clip, dict):
        return clip
    if len(norms) < MEDIAN_OF_AT_LEAST:
        return None
    return clip["median"] * statistics.median(norms)
