"""Answers made once, however often they are asked for: reports ask dozens of times."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

_Given = ParamSpec("_Given")
_Answer = TypeVar("_Answer")

_memory: ContextVar[dict[tuple, tuple] | None] = ContextVar("_memory", default=None)


@contextmanager
def remembered() -> Iterator[None]:
    """Within, `once` answers each question once. What it is given must not be changed meanwhile."""
    token = _memory.set({})
    try:
        yield
    finally:
        _memory.reset(token)


def once(make: Callable[_Given, _Answer], *given: _Given.args, **options: _Given.kwargs) -> _Answer:
    """make(*given), remembered by what `given` is (frames by identity) within `remembered`."""
    memory = _memory.get()
    if memory is None:
        return make(*given, **options)
    values = (*given, *options.values())
    key = (make, *(x if isinstance(x, str | int | float | None) else id(x) for x in values))
    if key not in memory:  # what was given is kept with the answer: its id stays its own
        memory[key] = (make(*given, **options), given, options)
    answer: _Answer = memory[key][0]
    return answer
