"""The data of a sweep, checked before any work: names, then contents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from evaluation.protocols import task_protocol
from evaluation.tasks.data import check_task_on_hub
from evaluation.tasks.index import task_names
from evaluation.text.corpora import check_corpus, check_corpus_on_hub
from orchestrator.errors import InputError
from orchestrator.study.calibration_check import check_calibrations
from orchestrator.study.experiment import Protocol
from orchestrator.study.spec import Sweep

Entry = TypeVar("Entry")


def check_data(sweep: Sweep, where: Path) -> None:
    """Raises InputError for unknown tasks and corpora, and for local data that cannot be scored.

    The hub is not asked.
    """
    _check(f"{where}: tasks", sweep.tasks, lambda t: task_names(t.name))
    _check(f"{where}: corpora", sweep.corpora, lambda c: check_corpus(c.name, c.local_copy))
    scored = [(c.name, c.local_copy) for c in sweep.corpora]
    check_calibrations(sweep.calibrations, scored, where)
    data = sweep.task_data()
    _check(
        f"{where}: tasks",
        sweep.tasks,
        lambda t: [task_protocol(n, sweep.limit, data[n]) for n in task_names(t.name)],
    )


def check_hub(protocols: Iterable[Protocol]) -> None:
    """Raises InputError for data that the hub should have and does not, or that nobody can ask for.

    Within ten seconds where the hub is silent: nothing is fetched, no cluster is started before.
    """
    try:
        for source, settings in {
            p.source: p.settings for p in protocols if not p.data_files
        }.items():
            if "task" in settings:
                check_task_on_hub(source)
            else:
                check_corpus_on_hub(source)
    except ValueError as error:
        raise InputError(str(error)) from None


def _check(where: str, entries: Sequence[Entry], check: Callable[[Entry], object]) -> None:
    for index, entry in enumerate(entries):
        try:
            check(entry)
        except ValueError as error:
            raise InputError(f"{where}.{index}: {error}") from None
