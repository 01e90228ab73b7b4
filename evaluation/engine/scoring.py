"""The scoring engine: log-probabilities of given tokens under a causal language model.

The base transformer runs on every distinct position (see `layout`), the output head only
on those positions whose next token is asked for, and results leave the device once, at the end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from evaluation.engine.abilities import (
    attention_kernels,
    head_can_stand_apart,
    model_inputs,
    read_states,
    tree_pair_cost,
)
from evaluation.engine.layout import Batch, Layout, Plan, plan
from evaluation.engine.module_state import put_back
from evaluation.engine.on_threads import on_threads
from evaluation.engine.rows import RowHabits, row_habits
from evaluation.engine.sequences import Sequences
from quantizers.kernels import token_logprobs

log = logging.getLogger(__name__)

# Positions (padding counted) in one batch. On a CPU small batches keep activations in the cache.
TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 16384}
# Logits held at once (fp32 elements): the head is applied in slices of this size ...
LOGITS_AT_ONCE = {"cpu": 2**18, "cuda": 2**25}
FEWEST_AT_ONCE = 128  # ... but, lest it is read too often, to so many positions at least
# Log-probabilities fp32 [n], greedy bool [n] or, where nobody asks, [0].
TokenScores = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Scores:
    """Per sequence: summed log-probability in nats, float64 [n], and whether every scored token
    is the model's most likely one, bool [n] (None where it was not asked for)."""

    logprob: np.ndarray
    greedy: np.ndarray | None


class Scorer:
    """Scores sequences on one resident model (any transformers causal LM, in eval mode).

    What the model can do is found when its scorer is made; its weights may change between calls,
    nothing computed from them is kept. A row's scores are those it has alone: models that go by the
    width of a batch read one row at a time. On a GPU the largest batch is tried first; wherever
    memory runs out, `tokens_per_batch` is halved for good and the sequences scored again from the
    first, so that the numbers of one call always come from one layout.
    """

    def __init__(self, model: PreTrainedModel, max_length: int) -> None:
        """`max_length`: tokens the model reads; longer sequences are cut on the left."""
        self.model = model
        self.device: torch.device = model.device
        self._kind = "cpu" if self.device.type == "cpu" else "cuda"
        self._max_length = max_length
        self.tokens_per_batch = TOKENS_PER_BATCH[self._kind]
        self.rows = RowHabits()
        self._pair_cost: float | None = None
        self._widest_known = 0
        self._plans: WeakKeyDictionary[Sequences, tuple[Layout, Plan]] = WeakKeyDictionary()
        with attention_kernels(self.device):
            self._head_apart = head_can_stand_apart(model)
            self._learn_rows(min(max_length, self._widest_shared()))
            self._pair_cost = None if self.rows.alone else self._learn_trees()
        if self._kind == "cuda":
            self.probe()

    @property
    def layout(self) -> Layout:
        """How batches are laid out for this model."""
        return Layout(self._max_length, self.tokens_per_batch, self._pair_cost)

    def positions_at_once(self) -> int:
        """How many positions the output head is applied to at a time."""
        vocabulary = self.model.config.get_text_config().vocab_size
        return max(FEWEST_AT_ONCE, LOGITS_AT_ONCE[self._kind] // vocabulary)

    def probe(self) -> None:
        """Score batches as large as any will be, so that memory runs out now or never: of plain
        rows, and of trees, which have masks.

        Not even one sequence as long as the model reads may fit: the tasks may have shorter ones.
        """
        budget = self.tokens_per_batch
        width = min(self._max_length, budget)
        stem, tip = width // 2, width // 4
        vocabulary = self.model.config.get_text_config().vocab_size
        rows: list[tuple[list[int], int]] = []
        trees: list[tuple[list[int], int]] = []
        for i in range(max(1, budget // width)):
            tokens = [(place + i) % vocabulary for place in range(width + 1)]
            rows.append((tokens, width))
            if tip > 1:  # the second half of a tree's tokens belongs to either of two sequences
                first, second = tokens[stem : stem + tip], tokens[stem + tip : stem + 2 * tip]
                trees += [(tokens[:stem] + end + end[:1], tip) for end in (first, second)]
        with suppress(torch.OutOfMemoryError):
            self.score(Sequences.of(rows))
        with suppress(torch.OutOfMemoryError):
            self.score(Sequences.of(trees))

    def score(
        self, sequences: Sequences, greedy: bool = True, max_length: int | None = None
    ) -> Scores:
        """Score sequences, in the order given; `greedy`: whether to find the greedy flags too;
        `max_length`: tokens read of a sequence, where not as many as the model reads.

        Raises ValueError where a continuation exceeds what the model reads, and
        torch.OutOfMemoryError when the longest sequence does not fit by itself.
        """
        while True:
            batches = self.plan(sequences, max_length)
            try:
                return self.run(batches, greedy, self.read_and_score)
            except torch.OutOfMemoryError:
                if self.tokens_per_batch <= batches.longest:
                    raise
            self._halve_batches()

    def plan(self, sequences: Sequences, max_length: int | None = None) -> Plan:
        """The batches that `score` takes, once the model's habits on rows as long are known."""
        while True:
            layout = replace(self.layout, max_length=max_length or self._max_length)
            batches = self._plan(sequences, layout)
            if batches.longest <= self._widest_known:
                return batches
            try:
                self._learn_rows(batches.longest)
            except torch.OutOfMemoryError:
                if layout.tokens_per_batch <= batches.longest:
                    raise
                self._halve_batches()

    def _plan(self, sequences: Sequences, layout: Layout) -> Plan:
        """The batches of these sequences, made once while the layout stays."""
        known = self._plans.get(sequences)
        if known is None or known[0] != layout:
            known = self._plans[sequences] = (layout, plan(sequences, layout))
        return known[1]

    def _halve_batches(self) -> None:
        self.tokens_per_batch //= 2
        log.warning("out of memory: batches of %d tokens from here", self.tokens_per_batch)
        if self._kind == "cuda":
            torch.cuda.empty_cache()

    def _widest_shared(self) -> int:
        """No row in a batch of several is wider. (A row of trees may be: see `tree_pair_cost`.)"""
        return self.tokens_per_batch // 2

    def _learn_rows(self, width: int) -> None:
        """Find out how the model reads rows of up to so many tokens."""
        read = partial(read_states, self.model)
        shared = width <= self._widest_shared()
        try:
            habits = row_habits(self.model, width, read, shared)
        except torch.OutOfMemoryError:
            if not shared or width <= FEWEST_AT_ONCE:
                raise
            self._halve_batches()
            self._learn_rows(min(width, self._widest_shared()))
            return
        self._widest_known = width
        self.rows = self.rows.joined(habits)
        if self.rows.alone:
            self.tokens_per_batch, self._pair_cost = 1, None

    def _learn_trees(self) -> float | None:
        """`Layout.pair_cost` of the model."""
        while True:
            try:
                return tree_pair_cost(self.model, self.layout)
            except torch.OutOfMemoryError:
                if self.tokens_per_batch <= FEWEST_AT_ONCE:
                    return None
            self._halve_batches()

    def run(self, batches: Plan, greedy: bool, score: Callable[..., TokenScores]) -> Scores:
        """The scores of a plan; score(number of a batch, batch, greedy): those of its tokens, as
        `read_and_score` has them."""
        if not batches.batches:
            return Scores(np.empty(0), np.empty(0, dtype=bool) if greedy else None)
        scored = self.each(batches, partial(score, greedy=greedy))
        starts = np.cumsum(batches.lengths) - batches.lengths
        # Sums are taken here, in float64 and in order: on a GPU they would depend on the run.
        tokens = torch.cat([logprobs for logprobs, _ in scored]).cpu().numpy().astype(np.float64)
        logprob = np.empty(len(starts))
        logprob[batches.order] = np.add.reduceat(tokens, starts)
        if not greedy:
            return Scores(logprob, None)
        of_tokens = torch.cat([flags for _, flags in scored]).cpu().numpy()
        flags = np.empty(len(starts), dtype=bool)
        flags[batches.order] = np.logical_and.reduceat(of_tokens, starts)
        return Scores(logprob, flags)

    def each(self, batches: Plan, function: Callable[[int, Batch], Any]) -> list[Any]:
        """function(number, batch) of every batch, on as many threads as the scores are taken on."""
        one_thread = self._kind == "cuda" or self.rows.alone or bool(self.rows.state)
        threads = 1 if one_thread else torch.get_num_threads()
        if len(batches.batches) >= threads > 1:
            return on_threads(function, batches.batches)
        # All are copied first: a copy waits for the computation that was queued before it.
        on_device = [batch.to(self.device) for batch in batches.batches]
        with attention_kernels(self.device):
            return [function(number, batch) for number, batch in enumerate(on_device)]

    @torch.inference_mode()  # holds for the thread that enters it
    def read_and_score(self, number: int, batch: Batch, greedy: bool) -> TokenScores:
        """Log-probabilities and greedy flags of a batch's targets."""
        # What stays is put before what goes: among the logits it would keep freed memory in pieces
        # too small for the next logits.
        n = len(batch.positions)
        logprobs = torch.empty(n, device=self.device)
        flags = torch.empty(n if greedy else 0, dtype=torch.bool, device=self.device)
        values = self.read(batch).flatten(0, 1)
        head = self.model.get_output_embeddings() if self._head_apart else torch.nn.Identity()
        positions = batch.positions.to(values.device).long()
        targets = batch.targets.to(self.device).long()
        step = self.positions_at_once()
        for start in range(0, n, step):
            some = slice(start, start + step)
            logits = head(values[positions[some]])
            of = targets[some].to(logits.device)
            logprobs[some], likeliest = token_logprobs(logits, of, greedy)
            if likeliest is not None:
                flags[some] = likeliest
        return logprobs, flags

    def read(self, batch: Batch) -> Tensor:
        """Last hidden states [rows, width, d]; where the head does not stand apart, logits."""
        inputs = model_inputs(self.model, batch)
        put_back(self.rows.state)
        if not self._head_apart:
            return self.model(**inputs).logits
        states: Tensor = self.model.base_model(**inputs).last_hidden_state
        return states
