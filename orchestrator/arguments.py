"""Command lines: a mistake in one is a line, and a number is checked as it is read."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from typing import Never

from orchestrator.errors import InputError


class Parser(argparse.ArgumentParser):
    """Says a mistake in one line, without the usage before it; exit code 2."""

    def error(self, message: str) -> Never:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of an option that takes whole numbers from `least` on, up to `most`."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most):
            upper = "" if most is None else f" to {most}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least}{upper}")
        return number

    return read


def positive(text: str) -> float:
    """The type of an option that takes numbers above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def belongs_to(other: str, given: Mapping[str, object]) -> None:
    """Raises InputError for an option that is given without the one it belongs to.

    given: spelling -> value; None, False and an empty list: not given.
    """
    for option in _given(given):
        raise InputError(f"{option}: goes with {other}; add that, or leave it out")


def does_nothing_beside(other: str, given: Mapping[str, object]) -> None:
    """Raises InputError for an option ignored beside another one; `given` as above."""
    for option in _given(given):
        raise InputError(f"{option}: does nothing beside {other}; leave one of them out")


def _given(options: Mapping[str, object]) -> list[str]:
    return [
        option
        for option, value in options.items()
        if value is not None and value is not False and value != []
    ]
