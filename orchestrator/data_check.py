"""The data of a sweep, checked before any work: names, then contents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from evaluation.corpora import check_corpus
from evaluation.protocols import task_protocol
from evaluation.task_index import task_names
from orchestrator.errors import InputError
from orchestrator.spec import Sweep

Entry = TypeVar("Entry")


def check_data(sweep: Sweep, where: Path) -> None:
    """Raises InputError for unknown tasks and corpora, and for local data that cannot be scored.

    The hub is not asked.
    """
    _check(f"{where}: tasks", sweep.tasks, lambda t: task_names(t.name))
    _check(f"{where}: corpora", sweep.corpora, lambda c: check_corpus(c.name, c.local_copy))
    data = sweep.task_data()
    _check(
        f"{where}: tasks",
        sweep.tasks,
        lambda t: [task_protocol(n, sweep.limit, data[n]) for n in task_names(t.name)],
    )


def _check(where: str, entries: Sequence[Entry], check: Callable[[Entry], object]) -> None:
    for index, entry in enumerate(entries):
        try:
            check(entry)
        except ValueError as error:
            raise InputError(f"{where}.{index}: {error}") from None
