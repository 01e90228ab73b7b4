"""Ctrl-C: once finishes and stores what is in flight, twice stops now, as SIGTERM does."""

from __future__ import annotations

import signal
import sys
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
    """While entered, the first SIGINT sets `asked`; the next raises KeyboardInterrupt.

    So does SIGTERM (`kill`, `ray job stop`): workers are ended, nothing is half-written.
    """

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked

    def __enter__(self) -> Interrupt:
        self._before = self.listen()
        return self

    def listen(self) -> dict[signal.Signals, Any]:
        """Take both signals, again where a library took one meanwhile; who had them before."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        return {number: signal.signal(number, self._on_signal) for number in numbers}

    def __exit__(
        self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.asked or number == signal.SIGTERM:
            raise KeyboardInterrupt
        self.asked = True
        print(
            "interrupted: finishing the experiments in flight; again to stop now",
            file=sys.stderr,
            flush=True,
        )
