#!/usr/bin/env python3
"""How much the orchestration costs when the evaluation costs nothing.

    python benchmarks/orchestration.py [--jobs 35000] [--json FILE]

Runs jobs whose evaluator returns at once through real Ray workers into a real SQLite file, beside
bare Ray actor calls in the same run; then plans the same grid against the full database.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ray

from evaluation.measurement import Measurement, Metric
from orchestrator.paths import ROOT
from orchestrator.run.connection import start_ray
from orchestrator.run.freed_memory import resident_bytes
from orchestrator.run.pool import Pool
from orchestrator.store.measured import missing_protocols
from orchestrator.store.store import Store
from orchestrator.study.experiment import Protocol
from orchestrator.study.grid import expand
from orchestrator.study.job import Job, JobResult
from orchestrator.study.models import load_models
from orchestrator.study.outcome import Status
from orchestrator.study.spec import Corpus, Grid, Sweep

METRICS = 10  # measurements an experiment: five tasks with acc and acc_norm
WORKERS = 2
PROTOCOLS = [Protocol(f"task{i}", "task", {"version": i, "limit": None}, "") for i in range(5)]
TYPES = ["int", "float", "dynamic", "quantile"]


class InstantWorker:
    """Answers without looking."""

    def run(self, job: Job) -> JobResult:
        metrics = (Metric("acc", 0.5, 0.01, 1000), Metric("acc_norm", 0.5, 0.01, 1000))
        measured = [(p, Measurement(p.task, p.settings, metrics)) for p in job.protocols]
        versions = {"python": "3.11.0", "torch": "2.13.0", "transformers": "5.23.0"}
        return JobResult(
            job, Status.DONE, measurements=measured, host="host", device="none", versions=versions
        )


class BareActor:
    def call(self, number: int) -> int:
        return number


def grid(size: int) -> list:
    """`size` experiments over the paper's models, as a sweep file would give them."""
    families = load_models(ROOT / "models.yaml")
    names = ["opt", "pythia", "gpt2", "bloom", "bloomz"]
    models = sum(len(families[name]) for name in names)
    blocks = list(range(16, 16 + -(-size // (models * 7 * len(TYPES)))))
    sweep = Sweep(
        name="benchmark",
        models=names,
        grids=[Grid(bits=[2, 3, 4, 5, 6, 7, 8], data_type=TYPES, block_size=blocks)],
        corpora=[Corpus(name="sotu")],
    )
    plan = expand(sweep, families, Path("benchmark"), on_gpu=False)
    return plan.experiments[:size]


class Memory(threading.Thread):
    """Resident megabytes of this process, sampled every half second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[float] = []
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.5):
            self.samples.append(resident_bytes() / 1e6)


def bare_calls_per_second(calls: int) -> float:
    """Actor calls, one in flight per actor: what a driver without batches could reach."""
    remote = ray.remote(BareActor)
    actors = [remote.remote() for _ in range(WORKERS)]
    ray.get([actor.call.remote(0) for actor in actors])
    started = time.perf_counter()
    waiting = {actor.call.remote(i): actor for i, actor in enumerate(actors)}
    for number in range(calls):
        (ready,), _ = ray.wait(list(waiting))
        actor = waiting.pop(ready)
        ray.get(ready)
        waiting[actor.call.remote(number)] = actor
    rate = calls / (time.perf_counter() - started)
    for actor in actors:
        ray.kill(actor)
    return rate


def run_jobs(store: Store, jobs: list[Job]) -> tuple[float, list[float]]:
    """Experiments a second from the first result to the last, and the driver's memory over time."""
    memory = Memory()
    memory.start()
    started, done, early = 0.0, 0, 0
    for results in Pool(jobs, InstantWorker, max_workers=WORKERS).results():
        store.record(*results)
        if not started:
            started, early = time.perf_counter(), len(results)
        done += len(results)
    seconds = time.perf_counter() - started
    memory.stopped.set()
    memory.join()
    assert done == len(jobs), (done, len(jobs))
    return (done - early) / seconds, memory.samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=35_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    start_ray()
    records = []

    def note(case, metric, value, unit, peer="", peer_value=None, ratio=None):
        device = f"{platform.machine()}, {os.cpu_count()} CPUs"
        keys = ("case", "metric", "value", "unit", "peer", "peer_value", "ratio", "device")
        row = (case, metric, value, unit, peer, peer_value, ratio, device)
        records.append(dict(zip(keys, row, strict=True)))
        beside = f"   {peer}: {peer_value:.0f}, {ratio:.2f}x" if peer else ""
        print(f"{case:<24} {metric:<34} {value:>10.2f} {unit}{beside}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "benchmark.db"
        store = Store.create(f"sqlite:///{path}")
        jobs = [Job(experiment, PROTOCOLS, "cpu", 1) for experiment in grid(arguments.jobs)]
        bare = bare_calls_per_second(min(6000, len(jobs)))
        rate, memory = run_jobs(store, jobs)
        case = f"{len(jobs)} instant experiments"
        note(case, "experiments", rate, "1/s", "bare actor calls", bare, rate / bare)
        tenth = max(1, len(memory) // 10)
        note(case, "driver memory, first tenth", max(memory[:tenth]), "MB")
        note(case, "driver memory, maximum", max(memory), "MB")
        store.engine.dispose()
        size = sum(file.stat().st_size for file in Path(folder).glob("benchmark.db*"))
        note(case, f"file, {METRICS} measurements each", size / 1e6, "MB")

        started = time.perf_counter()
        experiments = grid(arguments.jobs)
        asked = [(experiment, PROTOCOLS) for experiment in experiments]
        missing = missing_protocols(asked, store.stored_measurements())
        seconds = time.perf_counter() - started
        assert not missing, len(missing)
        note("plan a full database", "grid, ids and what is missing", seconds, "s")
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
