"""Which jobs a free worker takes next: pure policy, no Ray.

A worker stays with its resident model while that has work. Otherwise it takes the largest model
that nobody serves, and when all are served, helps where the wait is longest, if that is worth the
load. Quick jobs are handed out several at a time, so that the driver does not slow them down.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from orchestrator.study.job import Job, JobResult

MAX_ATTEMPTS = 3
BATCH_SECONDS = 0.5  # work lost with a worker is at most one job, or this much of quick ones
MAX_BATCH = 64


@dataclass
class _Model:
    """One model's waiting jobs, who serves it, and what its jobs have cost so far."""

    jobs: deque[Job] = field(default_factory=deque)
    workers: int = 0
    arriving: int = 0  # workers on their way, each counted on for one job
    seconds: float = 0.0
    done: int = 0
    load_seconds: float | None = None
    streamed: bool = False  # all its jobs are one worker's
    begun: set[int] = field(default_factory=set)  # stacks of which jobs were handed out, by id

    @property
    def unclaimed(self) -> int:
        """Jobs that no worker is on its way for."""
        if self.streamed and self.workers:
            return 0
        return max(0, len(self.jobs) - self.arriving)

    @property
    def seconds_per_job(self) -> float | None:
        return self.seconds / self.done if self.done else None

    @property
    def wait(self) -> float:
        """Seconds until its own workers are through; infinite while nothing is known."""
        each = self.seconds_per_job
        if self.workers == 0 or each is None:
            return float("inf")
        return (len(self.jobs) - self.arriving) * each / self.workers


class Schedule:
    """Hands out jobs; a job whose worker was lost is handed out again, up to MAX_ATTEMPTS times."""

    def __init__(self, jobs: list[Job]) -> None:
        self._models: dict[str, _Model] = {}
        for job in jobs:  # jobs come largest model first and stay so
            model = self._models.setdefault(job.experiment.model.name, _Model())
            model.jobs.append(job)
            model.streamed = job.streamed
        self._losses: Counter[str] = Counter()

    def has_work(self) -> bool:
        """Whether jobs are waiting."""
        return any(model.jobs for model in self._models.values())

    def join(self) -> str | None:
        """The model a worker without one should load; None when no load is worth it.

        It is when nobody serves the model, or its workers would need longer than the load takes.
        """
        open_ = {n: m for n, m in self._models.items() if m.unclaimed}
        name = next((n for n, m in open_.items() if m.workers == 0), None)
        if name is None and open_:
            name = max(open_, key=lambda n: open_[n].wait)
            if open_[name].wait <= (open_[name].load_seconds or 0.0):
                name = None
        if name is not None:
            self._models[name].workers += 1
            self._models[name].arriving += 1
        return name

    def arrived(self, name: str) -> None:
        """A worker that joined is there (or will never be): nothing is held back for it."""
        self._models[name].arriving -= 1

    def leave(self, name: str) -> None:
        """A worker stops serving the model: it is dry, or dead."""
        self._models[name].workers -= 1

    def take(self, name: str, last: Job | None = None) -> list[Job]:
        """Jobs for a worker that serves model `name`: one, or several quick ones; [] when dry.

        last: what the worker did before; it goes on with what is rounded together with that, else
        takes what nobody has begun.

        A job that a worker was lost on travels alone: what kills workers then names itself. Of a
        streamed model all jobs go together.
        """
        model = self._models[name]
        if model.streamed:
            batch = list(model.jobs)
            model.jobs.clear()
            return batch
        each = model.seconds_per_job
        size = 1 if each is None else int(min(MAX_BATCH, BATCH_SECONDS / max(each, 1e-6)))
        size = max(1, min(size, -(-len(model.jobs) // max(1, model.workers))))
        batch = []
        _bring_forward(model, last)
        while model.jobs and len(batch) < size:
            if batch and self._losses[model.jobs[0].experiment.id]:
                break
            if batch and model.jobs[0].together is not batch[0].together:
                break
            batch.append(model.jobs.popleft())
            if self._losses[batch[0].experiment.id]:
                break
        if batch:
            model.begun.add(id(batch[0].together))
        return batch

    def finished(self, result: JobResult) -> None:
        """Learn from a result what the model's jobs cost."""
        model = self._models[result.job.experiment.model.name]
        model.seconds += result.seconds_quantize + result.seconds_score
        model.done += 1
        model.load_seconds = max(model.load_seconds or 0.0, result.seconds_load)

    def put_back(self, job: Job) -> None:
        """Return a job that no worker began."""
        self._models[job.experiment.model.name].jobs.appendleft(job)

    def lost(self, job: Job) -> bool:
        """Note that a worker died on a job. True when the job goes back into the queue."""
        self._losses[job.experiment.id] += 1
        if self._losses[job.experiment.id] >= MAX_ATTEMPTS:
            return False
        self.put_back(job)
        return True


def _bring_forward(model: _Model, last: Job | None) -> None:
    """To the front: what is stacked with the last job, else what is in no stack or a new one."""
    stacks = [job.together for job in model.jobs]
    same = [i for i, s in enumerate(stacks) if last is not None and s and s is last.together]
    new = [i for i, s in enumerate(stacks) if not s or id(s) not in model.begun]
    place = next(iter(same + new), 0)
    if place:
        model.jobs.rotate(-place)
