"""Jobs one after the other in this process: for debugging, and for machines without Ray."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from orchestrator.errors import SweepStopped
from orchestrator.study.job import Job, JobResult, handed_out
from orchestrator.study.outcome import Status


def run_local(
    jobs: list[Job], worker: Callable[[], Any], stopping: Callable[[], bool]
) -> Generator[list[JobResult], None, None]:
    """Results as they come, until the jobs are done or `stopping()` is true.

    Raises SweepStopped after a CUDA error, which leaves this process unable to compute.
    """
    one = worker()
    for batch in handed_out(jobs):
        if stopping():
            return
        results = one.run_streamed(batch) if batch[0].streamed else [one.run(batch[0])]
        yield results
        if results[-1].status == Status.LOST:
            raise SweepStopped(str(results[-1].error))
