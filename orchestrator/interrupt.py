"""Ctrl-C: once finishes and stores what is in flight, twice stops now, as SIGTERM does."""

from __future__ import annotations

import signal
import sys
from types import FrameType, TracebackType


class Interrupt:
    """While entered, the first SIGINT sets `asked`; the next raises KeyboardInterrupt.

    So does SIGTERM (`kill`, `ray job stop`): workers are ended, nothing is half-written.
    """

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked

    def __enter__(self) -> Interrupt:
        self._before = {
            signal.SIGINT: signal.signal(signal.SIGINT, self._on_signal),
            signal.SIGTERM: signal.signal(signal.SIGTERM, self._on_signal),
        }
        return self

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
