"""Which job a free worker takes next: pure policy, no Ray.

A worker stays with its resident model while that has work. Otherwise it takes the largest model
nobody has started, and when all are started, helps with the model that has most work left.
"""

from __future__ import annotations

from collections import Counter, deque

from orchestrator.job import Job

MAX_ATTEMPTS = 3


class Schedule:
    """Hands out jobs; a job whose worker was lost is handed out again, up to MAX_ATTEMPTS times."""

    def __init__(self, jobs: list[Job]) -> None:
        self._queues: dict[str, deque[Job]] = {}
        for job in jobs:  # jobs come largest model first and stay so
            self._queues.setdefault(job.experiment.model.name, deque()).append(job)
        self._started: set[str] = set()
        self._losses: Counter[str] = Counter()

    def next(self, resident: str | None) -> Job | None:
        """The next job for a worker that holds model `resident`; None when nothing is left."""
        waiting = {name: queue for name, queue in self._queues.items() if queue}
        if not waiting:
            return None
        if resident not in waiting:
            fresh = [name for name in waiting if name not in self._started]
            resident = fresh[0] if fresh else max(waiting, key=lambda name: len(waiting[name]))
        assert resident is not None
        self._started.add(resident)
        return self._queues[resident].popleft()

    def lost(self, job: Job) -> bool:
        """Note that a worker died on a job. True when the job goes back into the queue."""
        self._losses[job.experiment.id] += 1
        if self._losses[job.experiment.id] >= MAX_ATTEMPTS:
            return False
        self._queues[job.experiment.model.name].appendleft(job)
        return True
