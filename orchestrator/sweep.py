#!/usr/bin/env python3
"""Run a sweep: `ray job submit orchestrator/sweep.py` or `kbit sweep sweeps/demo.yaml`.

Validates the study, finds what the database lacks, runs exactly that, and stores every result.
The database is the only truth: the same command again does what is still missing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # started as a script: the sibling packages lie one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from orchestrator.errors import InputError
from orchestrator.executors import run_local, run_on_ray, start_ray
from orchestrator.grid import Plan, count_table, expand
from orchestrator.job import Job, JobResult
from orchestrator.models import load_models
from orchestrator.paths import ROOT, database_url
from orchestrator.progress import SweepProgress
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


def run(args: argparse.Namespace) -> int:
    """The whole program. Returns the exit code; raises InputError for bad input.

    0: everything asked for is stored. 1: some experiments failed. 2: some model could not be used.
    """
    sweep = load_sweep(args.sweep)
    families = load_models(args.models)
    if args.dry_run:
        _print_counts(expand(sweep, families, args.sweep, on_gpu=False, check_weights=False), sweep)
        return 0

    url = database_url(args.db, sweep.name)
    store = Store.create(url)
    print(f"database: {url}", flush=True)
    resources = start_ray() if args.executor == "ray" else {}
    device = _device(sweep, resources, args.executor)
    plan = expand(sweep, families, args.sweep, on_gpu=device == "cuda")
    for problem in plan.broken.values():
        print(f"error: {problem}", file=sys.stderr, flush=True)

    jobs = _missing_jobs(plan, sweep, store, device, args.retry_failed)
    _record_broken(plan, sweep, store, device)
    if jobs:
        results = (
            run_local(jobs)
            if args.executor == "local"
            else run_on_ray(jobs, resources, sweep.compute.workers)
        )
        with SweepProgress(len(jobs)) as progress:
            for result in results:
                store.record(result)
                progress.update(result)
    failed = store.failed_experiments().keys() & {e.id for e in plan.experiments}
    _print_outcome(plan, len(failed), url)
    return 2 if plan.broken else 1 if failed else 0


def _device(sweep: Sweep, resources: dict[str, float], executor: str) -> str:
    """Where this sweep computes. `auto`: the GPU when the cluster (or this machine) has one."""
    import torch

    has_gpu = resources.get("GPU", 0) >= 1 if executor == "ray" else torch.cuda.is_available()
    if sweep.compute.device == "cuda" and not has_gpu:
        raise InputError("compute.device: cuda asked for, but no GPU found; use auto or cpu")
    return "cuda" if has_gpu and sweep.compute.device != "cpu" else "cpu"


def _missing_jobs(
    plan: Plan, sweep: Sweep, store: Store, device: str, retry_failed: bool
) -> list[Job]:
    usable = [e for e in plan.experiments if e.model.name not in plan.broken]
    stored = store.stored_measurements()
    failed = {} if retry_failed else store.failed_experiments()
    missing = missing_protocols(usable, plan.protocols, stored)
    todo = [(e, p) for e, p in missing if e.id not in failed]
    skipped = len(missing) - len(todo)
    note = f", {skipped} failed before (--retry-failed tries them again)" if skipped else ""
    print(
        f"{len(plan.experiments)} experiments x {len(sweep.task_names())} tasks and "
        f"{len(sweep.corpora)} corpora: "
        f"{len(usable) - len(missing)} stored, {len(todo)} to do{note}",
        flush=True,
    )
    return [Job(e, p, device, sweep.compute.threads_per_worker) for e, p in todo]


def _record_broken(plan: Plan, sweep: Sweep, store: Store, device: str) -> None:
    """Experiments of an unusable model are stored as failed, once."""
    known = store.failed_experiments()
    for experiment in plan.experiments:
        problem = plan.broken.get(experiment.model.name)
        if problem is not None and known.get(experiment.id) != str(problem):
            job = Job(experiment, [], device, sweep.compute.threads_per_worker)
            store.record(JobResult(job, "failed", error=str(problem)))


def _print_counts(plan: Plan, sweep: Sweep) -> None:
    rows = [("family", "bits", "data type", "experiments"), *count_table(plan)]
    for family, bits, data_type, count in rows:
        print(f"{family:<16} {bits:>4}  {data_type:<10} {count:>11}")
    n_tasks = len(sweep.task_names())
    n = len(plan.experiments)
    print(
        f"{n} experiments x {n_tasks} zero-shot tasks = {n * n_tasks} zero-shot measurements, "
        f"and {n * len(sweep.corpora)} perplexity measurements"
    )


def _print_outcome(plan: Plan, failed: int, url: str) -> None:
    if failed:
        print(
            f"{failed} of {len(plan.experiments)} experiments have failed: kbit status --db {url}"
        )
    else:
        print(f"all {len(plan.experiments)} experiments are stored in {url}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="sweep.py",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
