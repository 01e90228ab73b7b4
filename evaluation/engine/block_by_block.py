"""Sequences scored on a model whose blocks are there one at a time.

Batches, threads and arithmetic are those of `Scorer.score`, so the scores are too: every batch goes
through one block, waits, and goes on through the next.
"""

from __future__ import annotations

from collections.abc import Hashable

import torch

from evaluation.engine.hidden_states import HiddenStates
from evaluation.engine.layout import Batch, Plan
from evaluation.engine.scoring import Scorer, Scores, TokenScores
from quantizers.block_passes import BlockPasses


class BlockByBlock:
    """Takes the batches of plans through the block that runs. `place` tells apart what waits: one
    plan at one setting of the model."""

    def __init__(self, scorer: Scorer, passes: BlockPasses, states: HiddenStates) -> None:
        self._scorer, self._passes, self._states = scorer, passes, states

    def advance(self, place: Hashable, plan: Plan) -> None:
        """Through a block that is not the last."""

        @torch.inference_mode()  # holds for the thread that enters it
        def step(number: int, batch: Batch) -> None:
            hidden = None if self._passes.is_first else self._states.take((place, number))
            given = self._passes.to_next(lambda: self._scorer.read(batch), hidden)
            self._states.put((place, number), given)

        self._scorer.each(plan, step)

    def finish(self, place: Hashable, plan: Plan, greedy: bool) -> Scores:
        """Through the last block, and what is behind it."""

        def score(number: int, batch: Batch, greedy: bool) -> TokenScores:
            hidden = None if self._passes.is_first else self._states.take((place, number))
            with self._passes.reading([] if hidden is None else [lambda: hidden]):
                return self._scorer.read_and_score(number, batch, greedy)

        return self._scorer.run(plan, greedy, score)

    def drop(self, place: Hashable, plan: Plan) -> None:
        """Let go of what waits there."""
        self._states.drop((place, number) for number in range(len(plan.batches)))
