"""Calibration text read by a model whose blocks are there one at a time."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from evaluation.engine.hidden_states import HiddenStates
from quantizers.calibration import TOKENS_A_BATCH, Statistics, collect
from quantizers.in_place import InPlace
from quantizers.streamed_model import StreamedModel


class StreamedCalibration:
    """Windows of calibration text on their way through the blocks, in the batches of `collect`."""

    def __init__(
        self, streamed: StreamedModel, states: HiddenStates, windows: Tensor, place: Hashable
    ) -> None:
        """windows: int64 [n, length]; place: tells what waits apart from all else in `states`."""
        self.windows, self._streamed = windows, streamed
        self._states, self._place = states, place
        self._batches = windows.split(max(1, TOKENS_A_BATCH // windows.shape[1]))

    def reading(self) -> AbstractContextManager[None]:
        """Within it a pass of the model over the windows is one of the block that is loaded."""
        waiting = [] if self._streamed.passes.is_first else self._keys()
        return self._streamed.passes.reading([self._states.lazy(key) for key in waiting])

    def statistics(self, block: InPlace) -> dict[str, Statistics]:
        """What the matrices of the block read, by `Site.input`. Raises ValueError as `collect`."""
        with self.reading():
            return dict(collect(self._streamed.model, block.wiring, self.windows))

    @torch.inference_mode()
    def advance(self) -> None:
        """Through the block as it stands, unless it is the last."""
        model, passes = self._streamed.model, self._streamed.passes
        if passes.is_last:
            return
        for key, batch in zip(self._keys(), self._batches, strict=True):
            hidden = None if passes.is_first else self._states.take(key)
            ids = batch.to(model.device)
            given = passes.to_next(lambda ids=ids: model(ids, use_cache=False), hidden)  # type: ignore[misc]
            self._states.put(key, given)

    def drop(self) -> None:
        """Let go of what waits."""
        self._states.drop(iter(self._keys()))

    def _keys(self) -> list[tuple[Hashable, int]]:
        return [(self._place, number) for number in range(len(self._batches))]
