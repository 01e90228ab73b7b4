"""Ray workers that run a sweep's jobs: hired where there is room, replaced when they die.

The driver's loop: one batch of jobs in flight per worker; results, losses and overdue batches as
they come. Every worker holds one model resident. The database is written by whoever iterates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import RayError, RaySystemError, RayTaskError, RpcError

from orchestrator.errors import SweepStopped
from orchestrator.run.cluster import Need, Room, check_alive, node_resources, shortage
from orchestrator.run.provenance import device_name, here
from orchestrator.run.schedule import MAX_ATTEMPTS, Schedule
from orchestrator.study.job import Job, JobResult
from orchestrator.study.outcome import Cause, Status

HIRE_SECONDS = 2.0  # how often nodes that joined or left are noticed
WAIT_SECONDS = 0.5
MAX_FAILED_STARTS = 5


class Actor:
    """The process on the other side: a worker object that runs batches of jobs."""

    def __init__(self, worker: Callable[[], Any]) -> None:
        self._worker = worker()

    def introduce(self, device: str) -> tuple[str, dict[str, Any]]:
        """The node's id, and what is stored of attempts that are lost here (provenance.here).

        Answers once the process is up and its imports are done.
        """
        with suppress(Exception):  # a GPU that gives no name will say why when it is used
            device = device_name(device)
        return ray.get_runtime_context().get_node_id(), here(device)

    def run(self, jobs: list[Job]) -> list[JobResult]:
        """Results of the jobs in order; shorter when one broke this process (see Worker.run)."""
        if jobs[0].streamed:
            streamed: list[JobResult] = self._worker.run_streamed(jobs)
            return streamed
        results = []
        for job in jobs:
            results.append(self._worker.run(job))
            if results[-1].status == Status.LOST:
                break
        return results


@dataclass(eq=False)
class _Hired:
    """What the driver knows of one actor. `pending` is its start, then its batch."""

    actor: Any
    need: Need
    schedule: Schedule
    model: str
    pending: Any
    node: str | None = None
    hired_at: float = field(default_factory=time.monotonic)
    ready: bool = False  # it has introduced itself
    batch: list[Job] = field(default_factory=list)
    given_at: float = 0.0
    last: Job | None = None  # of the batch before
    provenance: dict[str, Any] = field(default_factory=here)  # the driver's, until it speaks


class Pool:
    """Runs jobs on the cluster; iterate over `results()`.

    `worker_seconds`: of every worker that came, from when it was asked for to its end; the start of
    its process, imports, loads and waits are included.
    """

    def __init__(
        self,
        jobs: list[Job],
        worker: Callable[[], Any],
        max_workers: int | None = None,
        timeout: float | None = None,
        stopping: Callable[[], bool] = lambda: False,
        wait: bool = False,
    ) -> None:
        """`timeout`: seconds one job may take, loading included. `stopping`: asked all the time;
        once true no further job is handed out and the pool ends with those in flight. `wait`: for
        a node that can hold what none can now.
        """
        self._schedules: list[tuple[Need, Schedule]] = _by_need(jobs)
        self._worker, self._timeout, self._stopping = worker, timeout, stopping
        self._max_workers = max_workers or len(jobs)
        self._hired: list[_Hired] = []
        self._wait = wait
        self._said: set[str] = set()
        self._failed_starts = 0
        self.worker_seconds = 0.0

    def results(self) -> Generator[list[JobResult], None, None]:
        """Results as they come, several at a time. Closing the iterator ends every worker.

        Raises SweepStopped when no worker can be started, when no node can hold those of the work
        that is left (unless it may wait for one), or when the cluster is gone.
        """
        hire_at = 0.0
        try:
            while self._busy() or (self._has_work() and not self._stopping()):
                if time.monotonic() >= hire_at:
                    check_alive()
                    if not self._stopping():
                        self._hire()
                        self._check_needs()
                    hire_at = time.monotonic() + HIRE_SECONDS
                pending = {hired.pending: hired for hired in self._hired}
                if not pending:
                    time.sleep(WAIT_SECONDS)
                    continue
                ready, waiting = ray.wait(list(pending), timeout=WAIT_SECONDS)
                if waiting:
                    more, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
                    ready += more
                results = [r for reference in ready for r in self._collect(pending[reference])]
                results += self._overdue()
                if any(result.status == Status.LOST for result in results):
                    hire_at = 0.0
                if results:
                    yield results
        except (RaySystemError, RpcError) as error:
            raise SweepStopped(f"the Ray cluster is gone: {_reason(error)}") from None
        finally:
            for hired in list(self._hired):
                self._dismiss(hired)

    def _has_work(self) -> bool:
        return any(schedule.has_work() for _, schedule in self._schedules)

    def _busy(self) -> bool:
        return any(hired.batch for hired in self._hired)

    def _hire(self) -> None:
        """Start a worker wherever there is room and work worth a load, the largest needs first."""
        room = Room(node_resources(), ((hired.need, hired.node) for hired in self._hired))
        for need, schedule in self._schedules:
            while len(self._hired) < self._max_workers and schedule.has_work() and room.take(need):
                model = schedule.join()
                if model is None:
                    break
                remote: Any = ray.remote(Actor)
                options = {"num_cpus": need["CPU"], "num_gpus": need.get("GPU", 0)}
                actor = remote.options(**options).remote(self._worker)
                pending = actor.introduce.remote("cuda" if need.get("GPU") else "cpu")
                self._hired.append(_Hired(actor, need, schedule, model, pending))

    def _check_needs(self) -> None:
        """Say once what no node can hold; the end, where it is all that is left."""
        nodes = node_resources()
        waiting = [need for need, schedule in self._schedules if schedule.has_work()]
        lacking = [reason for need in waiting if (reason := shortage(need, nodes))]
        for reason in [r for r in lacking if r not in self._said]:
            self._said.add(reason)
            print(f"waiting: {reason}", flush=True)
        if lacking and len(lacking) == len(waiting) and not self._hired and not self._wait:
            raise SweepStopped(f"{lacking[0]}; add such a node, or let the sweep --wait for one")

    def _collect(self, hired: _Hired) -> list[JobResult]:
        """Take what a worker has ready, give it the next batch, and return its results."""
        try:
            value = ray.get(hired.pending)
        except RayError as error:
            return self._lose(hired, _reason(error))
        if not hired.ready:
            (hired.node, hired.provenance), hired.ready = value, True
            hired.schedule.arrived(hired.model)
            self._failed_starts = 0
            self._give(hired)
            return []
        batch, hired.batch = hired.batch, []
        for job in batch[len(value) :]:
            hired.schedule.put_back(job)
        if value[-1].status == Status.LOST:
            hired.batch = [batch[len(value) - 1]]
            return value[:-1] + self._lose(hired, value[-1].error, value[-1])
        for result in value:
            hired.schedule.finished(result)
        self._give(hired)
        return value

    def _give(self, hired: _Hired) -> None:
        """The next batch: of the resident model, else of another one worth loading, else leave."""
        if self._stopping():
            return self._dismiss(hired)
        hired.batch = hired.schedule.take(hired.model, hired.last)
        while not hired.batch:
            hired.schedule.leave(hired.model)
            model = hired.schedule.join()
            if model is None:
                hired.model = ""
                return self._dismiss(hired)
            hired.model = model
            hired.schedule.arrived(model)
            hired.batch = hired.schedule.take(model)
        hired.last = hired.batch[-1]
        hired.pending = hired.actor.run.remote(hired.batch)
        hired.given_at = time.monotonic()

    def _overdue(self) -> list[JobResult]:
        """Workers that hold a batch for too long are ended."""
        if self._timeout is None:
            return []
        now, results = time.monotonic(), []
        for hired in [hired for hired in self._hired if hired.batch]:
            limit = self._timeout * (len(hired.batch) if hired.batch[0].streamed else 1)
            if now - hired.given_at > limit:
                results += self._lose(hired, f"no result within {limit:g} s (compute.timeout)")
        return results

    def _lose(
        self, hired: _Hired, reason: str, account: JobResult | None = None
    ) -> list[JobResult]:
        """A worker died (killed, out of memory, CUDA error, node gone) or must: try again.

        `account`: what the worker itself could still say of its one job.
        """
        if not hired.ready:
            self._failed_starts += 1
        results = []
        for job in hired.batch:
            again = hired.schedule.lost(job)
            prefix = "" if again else f"worker lost {MAX_ATTEMPTS} times: "
            after = f" (after {time.monotonic() - hired.given_at:.1f} s)"
            known = account or JobResult(job, Status.LOST, **hired.provenance)
            status = Status.LOST if again else Status.FAILED
            error = prefix + reason + after
            known = replace(known, status=status, error=error, cause=Cause.WORKER)
            results.append(replace(known, measurements=[], failures={}))
        self._dismiss(hired)
        if self._failed_starts >= MAX_FAILED_STARTS and not self._busy():
            raise SweepStopped(f"no worker can be started: {reason}")
        return results

    def _dismiss(self, hired: _Hired) -> None:
        self._hired.remove(hired)
        if not hired.ready:
            hired.schedule.arrived(hired.model)
        else:
            self.worker_seconds += time.monotonic() - hired.hired_at
        if hired.model:
            hired.schedule.leave(hired.model)
        ray.kill(hired.actor)


def _by_need(jobs: list[Job]) -> list[tuple[Need, Schedule]]:
    """One schedule for the jobs that need the same resources, the most GPUs first.

    Several models share a GPU only when models.yaml says how many (`per_gpu`).
    """
    groups: dict[tuple[float, float], list[Job]] = {}
    for job in jobs:
        model = job.experiment.model
        gpus = 1 if job.streamed else model.gpus / model.per_gpu
        key = (gpus, 1) if job.device == "cuda" else (0, job.threads)
        groups.setdefault(key, []).append(job)
    return [
        ({"CPU": cpus} | ({"GPU": gpus} if gpus else {}), Schedule(groups[gpus, cpus]))
        for gpus, cpus in sorted(groups, reverse=True)
    ]


def _reason(error: Exception) -> str:
    """Ray's long account of a loss in one line: what the worker raised, or how it ended."""
    if isinstance(error, RayTaskError):
        return f"{type(error.cause).__name__}: {error.cause}"
    text = " ".join(str(error).split())
    for beginning in ("Worker exit detail: ", "The actor is dead because "):
        text = text.partition(beginning)[2] or text
    return text.partition(" Some common causes")[0][:500]
