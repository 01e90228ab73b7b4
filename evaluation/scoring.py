"""The scoring engine: log-probabilities of given tokens under a causal language model.

A `Plan` lays token sequences out in padded batches once; scoring it runs the base transformer on
every position and the output head only on those positions whose next token is asked for. The layout
depends on the sequences alone, never on the model's weights or on free memory, so two precisions of
a model are compared on identical batches. (Sharing common prefixes belongs in `make_plan`.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

# Positions (padding counted) in one batch. On a CPU small batches keep activations in the cache.
TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 16384}
# Logits held at once (fp32 elements): the head is applied in slices of this size.
LOGITS_AT_ONCE = {"cpu": 2**20, "cuda": 2**27}


@dataclass(frozen=True)
class Batch:
    """Right-padded rows and the positions to score.

    input_ids int64 [rows, width]; positions int64 [n] index the flattened rows x width; targets
    int64 [n] are the tokens that follow them. All on the CPU.
    """

    input_ids: Tensor
    positions: Tensor
    targets: Tensor

    def halves(self) -> tuple[Batch, Batch]:
        """The upper and lower rows, equally wide: the same numbers in half the memory."""
        rows, width = self.input_ids.shape
        cut = rows // 2
        above = int((self.positions < cut * width).sum())
        return (
            Batch(self.input_ids[:cut], self.positions[:above], self.targets[:above]),
            Batch(self.input_ids[cut:], self.positions[above:] - cut * width, self.targets[above:]),
        )


@dataclass(frozen=True)
class Plan:
    """Batches, and how to get back: `order[i]` is the sequence laid out i-th, int64 [n]."""

    batches: tuple[Batch, ...]
    order: np.ndarray
    lengths: np.ndarray  # scored tokens of the sequence laid out i-th, int64 [n]


@dataclass(frozen=True)
class Scores:
    """Per sequence: summed log-probability in nats, float64 [n], and whether every scored token
    is the model's most likely one, bool [n]."""

    logprob: np.ndarray
    greedy: np.ndarray


def make_plan(sequences: Sequence[tuple[Sequence[int], int]], tokens_per_batch: int) -> Plan:
    """Lay out (tokens, n) pairs, where the last n of the tokens are to be scored given the others.

    The last token is never an input. Longest first, ties in the given order, so that rows of a
    batch have nearly the same length. Raises ValueError where n is not in 1..len(tokens)-1.
    """
    for i, (tokens, n) in enumerate(sequences):
        if not 1 <= n < len(tokens):
            raise ValueError(f"sequence {i}: cannot score {n} of {len(tokens)} tokens")
    lengths = np.array([len(tokens) - 1 for tokens, _ in sequences], dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        width = int(lengths[order[start]])
        rows = order[start : start + max(1, tokens_per_batch // width)]
        batches.append(_make_batch([sequences[i] for i in rows], width))
        start += len(rows)
    scored = np.array([sequences[i][1] for i in order], dtype=np.int64)
    return Plan(tuple(batches), order, scored)


def _make_batch(sequences: list[tuple[Sequence[int], int]], width: int) -> Batch:
    # A causal model never looks at the padding to the right, so any valid id will do, without mask.
    input_ids = np.zeros((len(sequences), width), dtype=np.int64)
    positions, targets = [], []
    for row, (tokens, n) in enumerate(sequences):
        length = len(tokens) - 1
        input_ids[row, :length] = tokens[:-1]
        positions.append(np.arange(length - n, length) + row * width)
        targets.append(np.asarray(tokens[-n:], dtype=np.int64))
    return Batch(
        torch.from_numpy(input_ids),
        torch.from_numpy(np.concatenate(positions)),
        torch.from_numpy(np.concatenate(targets)),
    )


class Scorer:
    """Scores plans on one resident model (any transformers causal LM, in eval mode).

    The weights may change between calls; nothing computed from them is kept.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.device: torch.device = model.device
        self._head_apart = self._head_can_stand_apart()

    def tokens_per_batch(self) -> int:
        """The batch size for this device, in positions."""
        return TOKENS_PER_BATCH["cpu" if self.device.type == "cpu" else "cuda"]

    @torch.inference_mode()
    def score(self, plan: Plan) -> Scores:
        """Score a plan. Results come off the device once, at the end."""
        if not plan.batches:
            return Scores(np.empty(0), np.empty(0, dtype=bool))
        logprobs, greedy = [], []
        for batch in plan.batches:
            for logprob, is_greedy in self._score_batch(batch):
                logprobs.append(logprob)
                greedy.append(is_greedy)
        # Sums are taken here, in float64 and in order: on a GPU they would depend on the run.
        token_logprobs = torch.cat(logprobs).cpu().numpy().astype(np.float64)
        token_greedy = torch.cat(greedy).cpu().numpy()
        starts = np.cumsum(plan.lengths) - plan.lengths
        scores = Scores(np.empty(len(starts)), np.empty(len(starts), dtype=bool))
        scores.logprob[plan.order] = np.add.reduceat(token_logprobs, starts)
        scores.greedy[plan.order] = np.logical_and.reduceat(token_greedy, starts)
        return scores

    def _score_batch(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """(log-probabilities fp32 [n], greedy bool [n]) in slices; halves the batch out of memory.

        Raises torch.OutOfMemoryError when a single row does not fit.
        """
        try:
            return self._forward(batch)
        except torch.OutOfMemoryError:
            if len(batch.input_ids) == 1:
                raise
        upper, lower = batch.halves()
        return self._score_batch(upper) + self._score_batch(lower)

    def _forward(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        input_ids = batch.input_ids.to(self.device, non_blocking=True)
        positions = batch.positions.to(self.device, non_blocking=True)
        targets = batch.targets.to(self.device, non_blocking=True)
        if not self._head_apart:
            logits = self.model(input_ids=input_ids, use_cache=False).logits.flatten(0, 1)
            return [_gather(logits[positions], targets)]
        hidden = self.model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
        head = self.model.get_output_embeddings()
        hidden = hidden.flatten(0, 1)[positions.to(hidden.device)]
        limit = LOGITS_AT_ONCE["cpu" if self.device.type == "cpu" else "cuda"]
        step = max(1, limit // self.model.config.get_text_config().vocab_size)
        return [
            _gather(head(part), target)
            for part, target in zip(hidden.split(step), targets.split(step), strict=True)
        ]

    @torch.inference_mode()
    def _head_can_stand_apart(self) -> bool:
        """Whether output head of base model equals the whole model: not so where logits are scaled
        or capped after the head (Cohere, Gemma 2); those models are run whole."""
        if self.model.get_output_embeddings() is None or self.model.base_model is self.model:
            return False
        probe = torch.arange(8, device=self.device)[None]
        hidden = self.model.base_model(input_ids=probe, use_cache=False).last_hidden_state
        apart = self.model.get_output_embeddings()(hidden)
        whole = self.model(input_ids=probe, use_cache=False).logits
        return torch.allclose(apart, whole.to(apart.dtype), rtol=1e-3, equal_nan=True)


def _gather(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    targets = targets.to(logits.device)
    logprobs = -cross_entropy(logits.float(), targets, reduction="none")
    return logprobs, logits.argmax(dim=-1) == targets
