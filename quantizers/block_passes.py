"""The decoder blocks of a model run one at a time, each on what the one before it gave.

The model's own code makes masks and positions and hands them to every block. Blocks that are not
there let the hidden states pass; the one that runs reads what was kept for it in their place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class _Reached(Exception):
    """The block behind the one that runs was reached."""


class BlockPasses:
    """Stands before the blocks of a model, one of which runs; the others let pass what they get.

    Threads may run the model at the same time, each with hidden states of its own.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self._running = 0
        self._gives_pair = False  # as some do, hidden states first: learned of the one that ran
        self._thread = threading.local()
        self.n_blocks = len(blocks)
        for number, block in enumerate(blocks):
            own: Callable[..., Any] = block.forward
            block.forward = self._in_place_of(own, number)  # type: ignore[method-assign]

    def run(self, number: int) -> None:
        """From here on this block runs, and no other."""
        self._running = number

    @property
    def is_first(self) -> bool:
        """Whether the block that runs reads what the model makes of tokens."""
        return self._running == 0

    @property
    def is_last(self) -> bool:
        """Whether nothing but norm and head stand behind the block that runs."""
        return self._running == self.n_blocks - 1

    def to_next(self, read: Callable[[], object], hidden: Tensor | None) -> Tensor:
        """What the running block hands to the one behind it, [rows, width, d].

        read: runs the model, as far as that; hidden: what the block reads, None: what the model
        gives it, of the first. Raises ValueError for the last block, which has none behind it.
        """
        if self.is_last:
            raise ValueError("no block is behind the last one")
        self._thread.stops = True
        try:
            with self.reading([lambda: hidden] if hidden is not None else []):
                read()
        except _Reached:
            given: Tensor = self._thread.reached
            return given
        finally:
            self._thread.stops, self._thread.reached = False, None
        raise RuntimeError("the model ended before the next block")

    @contextmanager
    def reading(self, hidden: Sequence[Callable[[], Tensor]]) -> Iterator[None]:
        """Within it the running block reads what these give, in turn, again from the first after
        the last, in this thread; none: what the model gives it."""
        self._thread.hidden, self._thread.turn = hidden, 0
        try:
            yield
        finally:
            self._thread.hidden = ()

    def _in_place_of(self, own: Callable[..., Any], number: int) -> Callable[..., Any]:
        def forward(hidden: Tensor, *args: Any, **options: Any) -> Any:
            thread = self._thread
            if number == self._running:
                kept = getattr(thread, "hidden", ())
                if kept:
                    hidden = kept[thread.turn % len(kept)]().to(hidden.device)
                    thread.turn += 1
                given = own(hidden, *args, **options)
                self._gives_pair = isinstance(given, tuple)
                return given
            if number > self._running and getattr(thread, "stops", False):
                thread.reached = hidden
                raise _Reached
            return (hidden, None) if self._gives_pair else hidden

        return forward
