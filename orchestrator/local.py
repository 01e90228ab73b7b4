"""Jobs one after the other in this process: for debugging, and for machines without Ray."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from orchestrator.job import Job, JobResult


def run_local(
    jobs: list[Job], worker: Callable[[], Any], stopping: Callable[[], bool]
) -> Generator[list[JobResult], None, None]:
    """Results as they come, until the jobs are done or `stopping()` is true."""
    one = worker()
    for job in jobs:
        if stopping():
            return
        yield [one.run(job)]
