#!/usr/bin/env python3
"""Run a sweep: `ray job submit orchestrator/sweep.py` or `kbit sweep sweeps/demo.yaml`.

Validates the study, finds what the database lacks, runs exactly that, and stores every result.
The database is the only truth: the same command again does what is still missing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # started as a script: the sibling packages lie one folder up
    _root = Path(__file__).resolve().parent.parent
    sys.path.insert(0, str(_root))
    if find_spec("ray") is None:  # `ray start` was run without the environment activated
        _python = _root / ".venv" / "bin" / "python"
        if _python.exists():
            os.execv(_python, [str(_python), *sys.argv])
        print(
            f"error: {sys.executable} lacks kbit's packages; activate its environment before "
            "`ray start`",
            file=sys.stderr,
        )
        sys.exit(2)

from orchestrator.cluster import has_gpu, start_ray
from orchestrator.dry_run import dry_run
from orchestrator.errors import InputError, SweepStopped
from orchestrator.experiment import Asked
from orchestrator.grid import Plan, expand
from orchestrator.interrupt import Interrupt
from orchestrator.job import Job, JobResult, unusable_model
from orchestrator.local import run_local
from orchestrator.models import ModelEntry, load_models
from orchestrator.paths import ROOT, database_url
from orchestrator.progress import SweepProgress
from orchestrator.provenance import here
from orchestrator.screening import Verdict, corpus_sample, in_full, judge, task_sample
from orchestrator.spec import Sweep, load_sweep
from orchestrator.store import Store, missing_protocols

EXAMPLE = "example: kbit sweep sweeps/demo.yaml --db results/demo.db"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sweep",
        nargs="?",
        type=Path,
        default=ROOT / "sweeps" / "demo.yaml",
        help="the sweep file (default: sweeps/demo.yaml)",
    )
    parser.add_argument(
        "--db", help="database path or SQLAlchemy URL (default: results/<sweep>.db)"
    )
    parser.add_argument("--models", type=Path, help="model families (default: models.yaml)")
    parser.add_argument("--dry-run", action="store_true", help="print the counts and stop")
    parser.add_argument("--executor", choices=("ray", "local"), default="ray")
    parser.add_argument(
        "--retry-failed", action="store_true", help="try experiments again that failed before"
    )


def run(args: argparse.Namespace, worker: Callable[[], Any] | None = None) -> int:
    """The whole program. Returns the exit code; raises InputError for bad input.

    0: everything asked for is stored. 1: some experiments failed. 2: some model could not be used.
    3: the cluster or the database is gone. 130: interrupted. The same command then goes on.
    `worker` makes what runs the jobs in each worker process; by default an orchestrator.worker.
    """
    sweep = load_sweep(args.sweep)
    families = load_models(args.models)
    if args.dry_run:
        dry_run(sweep, families, args.sweep, database_url(args.db, sweep.name))
        return 0

    store = Store.create(database_url(args.db, sweep.name))
    with closing(store), store.lock():
        print(f"database: {store.url}", flush=True)
        try:
            return _run(args, sweep, families, store, worker or _default_worker)
        except SweepStopped as error:
            print(f"error: {error}; the same command goes on", file=sys.stderr, flush=True)
            return 3


def _default_worker() -> Any:
    from orchestrator.worker import Worker  # imports torch: where it runs, not in the driver

    return Worker()


def _run(
    args: argparse.Namespace,
    sweep: Sweep,
    families: dict[str, list[ModelEntry]],
    store: Store,
    worker: Callable[[], Any],
) -> int:
    if args.executor == "ray":
        start_ray()
    device = _device(sweep, args.executor)
    plan = expand(sweep, families, args.sweep, on_gpu=device == "cuda")
    for problem in plan.broken.values():
        print(f"error: {problem}", file=sys.stderr, flush=True)
    _record_broken(plan, sweep, store, device)
    verdict = None
    with Interrupt() as interrupt:
        stage = partial(
            _run_stage,
            plan=plan,
            args=args,
            sweep=sweep,
            store=store,
            device=device,
            worker=worker,
            interrupt=interrupt,
        )
        if sweep.strategy == "adaptive":
            verdict = _screen(plan, sweep, store, stage, interrupt)
        if not interrupt.asked:
            stage(in_full(plan, verdict) if verdict else plan.asked, "full")
    if interrupt.asked:
        raise KeyboardInterrupt
    errors = store.failed_experiments()
    failed = [errors[e.id] for e in plan.experiments if e.id in errors]
    _print_outcome(plan, len(failed), verdict, store.url)
    unusable = bool(plan.broken) or any(unusable_model(error) for error in failed)
    return 2 if unusable else 1 if failed else 0


def _screen(
    plan: Plan,
    sweep: Sweep,
    store: Store,
    run_stage: Callable[[list[Asked], str], None],
    interrupt: Interrupt,
) -> Verdict | None:
    """Sample first; None where interrupted."""
    corpus = corpus_sample(plan, sweep)
    print("first a sample of every experiment:", flush=True)
    run_stage(corpus.asked, "screen")
    if interrupt.asked:
        return None
    tasks = task_sample(plan, corpus, sweep, store)
    if any(tasks.protocols.values()):
        print("then a sample of the tasks, for those near the best by loss:", flush=True)
        run_stage(tasks.asked, "screen_tasks")
    if interrupt.asked:
        return None
    verdict = judge(plan, corpus, tasks, sweep, store)
    print(f"{_dropped(plan, verdict)} experiments dropped after the samples", flush=True)
    return verdict


def _dropped(plan: Plan, verdict: Verdict) -> int:
    return len(plan.experiments) - len(verdict.corpora | verdict.tasks)


def _run_stage(
    asked: list[Asked],
    stage: str,
    plan: Plan,
    args: argparse.Namespace,
    sweep: Sweep,
    store: Store,
    device: str,
    worker: Callable[[], Any],
    interrupt: Interrupt,
) -> None:
    """Do what is missing; again for models whose memory ran out on the way, in smaller batches."""
    retry_failed = args.retry_failed
    ids = {e.id: {p.id for p in protocols} for e, protocols in asked}
    while True:
        jobs = _missing_jobs(asked, plan, sweep, store, device, retry_failed, stage)
        _execute(jobs, sweep, args.executor, store, worker, interrupt)
        outgrown = 0 if interrupt.asked else store.discard_larger_batches(stage, ids)
        if not outgrown:
            return
        print(f"memory ran out: {outgrown} experiments again in smaller batches", flush=True)
        retry_failed = False  # once a sweep


def _execute(
    jobs: list[Job],
    sweep: Sweep,
    executor: str,
    store: Store,
    worker: Callable[[], Any],
    interrupt: Interrupt,
) -> None:
    """Run the jobs and store each result as it comes."""
    if not jobs:
        return
    compute = sweep.compute
    with SweepProgress(len(jobs)) as progress:
        if executor == "local":
            results = run_local(jobs, worker, interrupt)
        else:
            from orchestrator.pool import Pool  # imports Ray: not for the local executor

            pool = Pool(jobs, worker, compute.workers, compute.timeout, interrupt)
            results = pool.results()
        with closing(results):  # ends the workers whatever happens
            for batch in results:
                store.record(*batch)
                for result in batch:
                    progress.update(result)
        # The local executor is one worker, there all the time.
        progress.worker_seconds = pool.worker_seconds if executor == "ray" else progress.elapsed()


def _device(sweep: Sweep, executor: str) -> str:
    """Where this sweep computes. `auto`: the GPU when the cluster (or this machine) has one."""
    if sweep.compute.device == "cpu":
        return "cpu"
    if executor == "ray":
        found = has_gpu()
    else:
        import torch

        found = torch.cuda.is_available()
    if sweep.compute.device == "cuda" and not found:
        raise InputError("compute.device: cuda asked for, but no GPU found; use auto or cpu")
    return "cuda" if found else "cpu"


def _missing_jobs(
    asked: list[Asked],
    plan: Plan,
    sweep: Sweep,
    store: Store,
    device: str,
    retry_failed: bool,
    stage: str,
) -> list[Job]:
    usable = [(e, protocols) for e, protocols in asked if e.model.name not in plan.broken]
    failed = {} if retry_failed else store.failed_experiments()
    missing = missing_protocols(usable, store.stored_measurements())
    # Whether a model can be used depends on files and networks, which are mended between sweeps.
    todo = [(e, p) for e, p in missing if e.id not in failed or unusable_model(failed[e.id])]
    skipped = len(missing) - len(todo)
    note = f", {skipped} failed before (--retry-failed tries them again)" if skipped else ""
    whole = f"{len(sweep.task_names())} tasks and {len(sweep.corpora)} corpora"
    print(
        f"{len(asked)} experiments x {whole if stage == 'full' else '1 sample'}: "
        f"{len(usable) - len(missing)} stored, {len(todo)} to do{note}",
        flush=True,
    )
    sizes, threads = store.batch_sizes(), sweep.compute.threads_per_worker
    return [
        Job(e, p, device, threads, stage, sizes.get((e.model.name, e.compute_dtype)))
        for e, p in todo
    ]


def _record_broken(plan: Plan, sweep: Sweep, store: Store, device: str) -> None:
    """Experiments of an unusable model are stored as failed, once."""
    known = store.failed_experiments()
    for experiment in plan.experiments:
        problem = plan.broken.get(experiment.model.name)
        if problem is not None and known.get(experiment.id) != str(problem):
            job = Job(experiment, [], device, sweep.compute.threads_per_worker)
            store.record(JobResult(job, "failed", error=str(problem), **here()))


def _print_outcome(plan: Plan, failed: int, verdict: Verdict | None, url: str) -> None:
    n = len(plan.experiments)
    if failed:
        print(f"{failed} of {n} experiments have failed: kbit status --db {url}")
    elif verdict is None:
        print(f"all {n} experiments are stored in {url}")
    else:
        print(
            f"{len(verdict.corpora)} experiments are stored on corpora, {len(verdict.tasks)} on "
            f"tasks, {_dropped(plan, verdict)} as dropped by their samples, in {url}"
        )


def main(argv: list[str] | None = None, worker: Callable[[], Any] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="sweep.py",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv), worker)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except SweepStopped as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
