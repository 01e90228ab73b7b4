"""Ctrl-C and SIGTERM, however often and whenever: one line, exit code 130, nothing half-written.

In a sweep the first Ctrl-C lets the experiments in flight finish; the next, SIGTERM, and either
anywhere else, stop now. Whoever does not stop at once is ended at the next signal: transactions are
whole or not at all, and a private cluster has its watchdog. Libraries swallow exceptions that come
in the middle of an import or a callback: an interrupt is raised again until it has arrived.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, Never

INTERRUPTED = 130
FINISHING = (
    "interrupted: finishing the experiments in flight (again: stop now); "
    "the same command goes on where this stopped"
)
STOPPED = "interrupted; the same command goes on where this stopped"
_SHOW_CURSOR = "\x1b[?25h"  # a live display hides it
_END_WITHIN = 30.0  # seconds for libraries to close what they have open
_AGAIN = 0.3  # seconds after which an interrupt that nothing unwinds from is raised again


class Stopped(KeyboardInterrupt):
    """The user was told already."""


class Interrupt:
    """Entered, the first SIGINT sets `asked`; all else raises Stopped, and once more ends."""

    def __init__(self) -> None:
        self.asked = False
        self._begun = self._graceful = self.stopping = self._over = False
        self._answering = self._held = self._insists = False
        self._meanwhile: int | None = None

    def __call__(self) -> bool:
        return self.asked or self.stopping

    def __enter__(self) -> Interrupt:
        self._before = self.listen()
        self._begun = self._graceful = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None
    ) -> None:
        self._graceful = False
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def listen(self) -> dict[signal.Signals, Any]:
        """Take both signals, again where a library took one meanwhile; who had them before."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        return {number: signal.signal(number, self._on_signal) for number in numbers}

    def begin(self) -> None:
        """From here on there is something to close. Before, while modules are imported, a signal
        ends the process where it stands."""
        self._begun = self._insists = True
        self.listen()

    def end(self) -> None:
        """The exit code is known: no signal changes it, and no library holds up the exit."""
        self._over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A signal inside is answered at the end, where nothing swallows it or prints a trace."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            number, self._meanwhile = self._meanwhile, None
            if number is not None:
                self._on_signal(number, None)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._over or self._answering:  # one in the middle of another would cut its line off
            return
        if self._held:
            self._meanwhile = number
            return
        self._answering = True
        try:
            self._answer(number)
        finally:
            self._answering = False

    def _answer(self, number: int) -> None:
        if self._graceful and not self.asked and number == signal.SIGINT:
            self.asked = True
            _say(FINISHING)
            return
        if self.stopping:
            _exit(INTERRUPTED)
        self.stopping = True
        if not self.asked:
            _say(STOPPED)
        if not self._begun:
            _exit(INTERRUPTED)
        if self._insists:
            signal.signal(signal.SIGALRM, self._again)
            signal.setitimer(signal.ITIMER_REAL, _AGAIN, _AGAIN)
        raise Stopped

    def _again(self, _number: int, _frame: FrameType | None) -> None:
        handled = sys.exc_info()[1]
        while handled is not None and not isinstance(handled, KeyboardInterrupt):
            handled = handled.__context__
        if handled is None and not self._over:  # no `except`, `finally` or `with` works on it
            raise Stopped


program = Interrupt()  # of a process that is one command


def current() -> Interrupt:
    """That one, where it listens; else another."""
    return program if signal.getsignal(signal.SIGINT) == program._on_signal else Interrupt()


def run_program(main: Callable[[], int]) -> int:
    """The exit code of a command that is all this process does."""
    # Raised where nothing can catch it (a destructor, a callback at exit), it would be printed.
    sys.unraisablehook = _end_if_interrupted
    code = INTERRUPTED
    try:
        program.begin()
        try:
            code = main()
        finally:
            program.end()
    except KeyboardInterrupt:
        program.end()
    except Exception:
        if not program.stopping:  # else what an interrupt in the middle of an import left
            raise
    if program.stopping:  # however it ended: the user was told so
        code = INTERRUPTED
    timer = threading.Timer(_END_WITHIN, _exit, [code])
    timer.daemon = True
    timer.start()
    if code == INTERRUPTED:
        _leave()
    return code


def _leave() -> Never:
    """Libraries close what they have open; the interpreter's own end, which frees a model and every
    module one by one, takes seconds and is left out."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a pipe whose reader the interrupt ended, too
            stream.flush()
    _exit(INTERRUPTED)


def say_interrupted(error: KeyboardInterrupt) -> int:
    """Tell the user, once; the exit code."""
    if not isinstance(error, Stopped) and not program.stopping:  # Ray raises one of its own
        print(STOPPED, file=sys.stderr, flush=True)
    return INTERRUPTED


def _say(line: str) -> None:
    # Not by print: the signal may have come in the middle of one.
    with suppress(OSError):
        os.write(2, f"{line}\n".encode())


def _exit(code: int) -> Never:
    if os.isatty(2):
        with suppress(OSError):
            os.write(2, _SHOW_CURSOR.encode())
    os._exit(code)


def _end_if_interrupted(unraisable: sys.UnraisableHookArgs) -> None:
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        _exit(INTERRUPTED)
    sys.__unraisablehook__(unraisable)
