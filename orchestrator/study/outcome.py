"""How an attempt ended, at which stage of a sweep, and what a failure is due to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How an attempt ended."""

    DONE = "done"
    FAILED = "failed"  # for good, as far as its cause stays
    LOST = "lost"  # its worker died; tried again
    DROPPED = "dropped"  # not worth its time, as its samples say
    OUTGROWN = "outgrown"  # its scores were discarded for those in smaller batches


class Stage(StrEnum):
    """What an attempt was made for."""

    FULL = "full"
    SCREEN = "screen"  # a sample of a corpus, in an adaptive sweep
    SCREEN_TASKS = "screen_tasks"  # samples of the tasks, which older versions took
    COMMAND = "command"  # `kbit bench` or `kbit outliers`: no sweep's


class Cause(StrEnum):
    """What a failure is due to."""

    ASKED = "asked"  # what was asked cannot be done: it would fail again
    WORKER = "worker"  # it killed its workers, or was not through in time
    MODEL = "model"  # files of the model
    DATA = "data"  # files of a task or corpus, a disk, the network

    @property
    def mendable(self) -> bool:
        """Whether it lies outside the sweep, so that the next sweep tries again."""
        return self in (Cause.MODEL, Cause.DATA)


@dataclass(frozen=True)
class Failure:
    """Why one protocol of an experiment was not measured."""

    cause: Cause
    error: str
