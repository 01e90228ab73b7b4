"""A job that is streamed with others of its model: how far it is, and what came of it so far."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from evaluation.engine.scoring import Scores
from evaluation.engine.sequences import Sequences
from orchestrator.run.measuring import fail
from orchestrator.run.provenance import here
from orchestrator.study.job import Job, JobResult
from orchestrator.study.outcome import Status
from quantizers.in_place import InPlace
from quantizers.setting import Setting
from quantizers.size import StoredSize


@dataclass(frozen=True, eq=False)
class Request:
    """What a protocol asks of a scorer."""

    sequences: Sequences
    greedy: bool
    window: int


@dataclass
class Course:
    """A job on its way through the blocks of a model."""

    result: JobResult
    size: StoredSize
    arithmetic: set[str] = field(default_factory=set)
    scores: dict[str, list[Scores]] = field(default_factory=dict)  # by protocol id

    @classmethod
    def of(cls, job: Job) -> Course:
        return cls(JobResult(job, Status.DONE, **here()), StoredSize(job.experiment.setting))

    @property
    def id(self) -> str:
        return self.result.job.experiment.id

    @property
    def setting(self) -> Setting:
        return self.result.job.experiment.setting

    @property
    def is_running(self) -> bool:
        return self.result.status == Status.DONE

    def note(self, part: InPlace) -> None:
        """What is known of matrices, before the setting is taken from them."""
        self.result.sites |= part.records
        if part.arithmetic is not None:
            self.arithmetic.add(part.arithmetic)

    def fail(self, error: Exception) -> None:
        fail(self.result, error)

    def conclude(self, n_params: int, n_linear: int) -> None:
        """All blocks are behind it: what is known of the whole model."""
        self.result.bits = self.size.model_bits(n_params, n_linear)
        mixed = len(self.arithmetic) > 1
        self.result.arithmetic = "mixed" if mixed else next(iter(self.arithmetic), None)


@contextmanager
def shared_load(courses: list[Course]) -> Iterator[None]:
    """Seconds of loading, which all of them have an equal part of."""
    started = time.perf_counter()
    try:
        yield
    finally:
        part = (time.perf_counter() - started) / len(courses)
        for course in courses:
            course.result.seconds_load += part
