"""Where jobs run: in this process, or in Ray actors. Both yield results as they come."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from orchestrator.job import Job, JobResult
from orchestrator.schedule import MAX_ATTEMPTS, Schedule
from orchestrator.worker import Worker, quiet_libraries


def run_local(jobs: list[Job]) -> Iterator[JobResult]:
    """Run jobs one after the other in this process (debugging; machines without Ray)."""
    quiet_libraries()
    worker = Worker()
    for job in jobs:
        yield worker.run(job)


def start_ray() -> dict[str, float]:
    """Connect to the running cluster, or start a local one. Returns the cluster's resources."""
    # Ray would otherwise wrap the actors' environment when launched by `uv run`, and phone home.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if not ray.is_initialized():
        try:
            ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError:
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address="127.0.0.1",
            )
    return ray.cluster_resources()


def run_on_ray(
    jobs: list[Job], resources: dict[str, float], workers: int | None
) -> Iterator[JobResult]:
    """Run jobs on Ray actors, each holding one model resident.

    Models are taken by the number of GPUs they need, most first. `workers` bounds the actors;
    by default the cluster's CPUs or GPUs are shared out. Closing the generator ends the actors.
    """
    by_need = sorted(jobs, key=lambda job: -job.experiment.model.gpus)
    for gpus, group in groupby(by_need, key=lambda job: job.experiment.model.gpus):
        group_jobs = list(group)
        if group_jobs[0].device == "cuda":
            size, options = resources.get("GPU", 0) // gpus, {"num_gpus": gpus, "num_cpus": 1}
        else:
            threads = group_jobs[0].threads
            size, options = resources.get("CPU", 1) // threads, {"num_cpus": threads}
        size = max(1, min(int(size), workers or int(size), len(group_jobs)))
        yield from _run_pool(group_jobs, size, options)


def _run_pool(jobs: list[Job], size: int, options: dict[str, int]) -> Iterator[JobResult]:
    """One job in flight per actor; a dead actor is replaced and its job tried again."""
    import ray

    actor_class = ray.remote(_Actor).options(**options)  # type: ignore[attr-defined]
    schedule = Schedule(jobs)
    actors: list[Any] = [actor_class.remote() for _ in range(size)]
    in_flight = {}

    def give(actor: Any, resident: str | None) -> None:
        job = schedule.next(resident)
        if job is None:
            actors.remove(actor)
            ray.kill(actor)
        else:
            in_flight[actor.run.remote(job)] = (actor, job)

    try:
        for actor in list(actors):
            give(actor, None)
        while in_flight:
            ready, _ = ray.wait(list(in_flight), timeout=1.0)
            for reference in ready:
                actor, job = in_flight.pop(reference)
                try:
                    result = ray.get(reference)
                except ray.exceptions.RayError as error:
                    # The worker died (killed, out of memory, CUDA error) or its node is gone.
                    again = schedule.lost(job)
                    reason = " ".join(str(error).split())[:500]
                    status = "lost" if again else "failed"
                    prefix = "" if again else f"worker lost {MAX_ATTEMPTS} times: "
                    result = JobResult(job, status, error=prefix + reason)
                    actors.remove(actor)
                    ray.kill(actor)
                    actor = actor_class.remote()
                    actors.append(actor)
                    give(actor, None)
                else:
                    give(actor, job.experiment.model.name)
                yield result
    finally:
        for actor in actors:
            ray.kill(actor)


class _Actor(Worker):
    """The Ray actor: a Worker whose process keeps quiet and leaves after a broken CUDA context."""

    def __init__(self) -> None:
        quiet_libraries()
        super().__init__()

    def run(self, job: Job) -> JobResult:
        try:
            return super().run(job)
        except Exception:
            os._exit(13)  # CUDA context is broken: every later job would fail here too
