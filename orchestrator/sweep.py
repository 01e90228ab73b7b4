#!/usr/bin/env python3
"""Run a sweep: `ray job submit orchestrator/sweep.py` or `kbit sweep sweeps/demo.yaml`.

Validates the study, finds what the database lacks, runs exactly that, and stores every result.
The database is the only truth: the same command again does what is still missing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # started as a script: the sibling packages lie one folder up
    _root = Path(__file__).resolve().parent.parent
    sys.path.insert(0, str(_root))
    from orchestrator.run.interrupt import program

    program.listen()  # the imports below take a second
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

from orchestrator.arguments import Parser, belongs_to
from orchestrator.errors import InputError, Rescued, SweepStopped
from orchestrator.paths import database_url, find_sweep
from orchestrator.run.endings import ending
from orchestrator.run.interrupt import Stopped, current, run_program
from orchestrator.study.grid import Plan, as_stored, check_study, drop_unavailable, expand
from orchestrator.study.models import load_models
from orchestrator.study.refusals import refusal_lines
from orchestrator.study.spec import Sweep, load_sweep

if TYPE_CHECKING:  # heavy, or not needed for a sweep file with a mistake
    from orchestrator.run.screening import Verdict
    from orchestrator.run.stages import Workforce
    from orchestrator.store.store import Store

EXAMPLE = "example: kbit sweep sweeps/demo.yaml --db results/demo.db"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sweep",
        nargs="?",
        type=Path,
        default=Path("demo"),
        help="the sweep file, or the name of one that kbit ships (default: demo)",
    )
    parser.add_argument(
        "--db", help="database path or SQLAlchemy URL (default: results/<sweep>.db)"
    )
    parser.add_argument("--models", type=Path, help="model families (default: models.yaml)")
    parser.add_argument("--dry-run", action="store_true", help="print the counts and stop")
    parser.add_argument("--executor", choices=("ray", "local"), default="ray")
    parser.add_argument(
        "--wait",
        action="store_true",
        help="wait for a node that can hold what none can now (GPUs, threads)",
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="try experiments again that failed before"
    )


def run(args: argparse.Namespace, worker: Callable[[], Any] | None = None) -> int:
    """The whole program. Returns the exit code; raises InputError for bad input.

    0: everything asked for is stored. 1: some experiments failed. 2: some model could not be used.
    3: the cluster or the database is gone. 130: interrupted. The same command then goes on.
    `worker` makes what runs the jobs in each worker process; by default an orchestrator.run.worker.
    """
    if args.executor == "local":
        belongs_to("--executor ray", {"--wait": args.wait})
    args.sweep = find_sweep(args.sweep)
    sweep = load_sweep(args.sweep)
    families = load_models(args.models)
    check_study(sweep, families, args.sweep)  # a mistake is answered before anything else is loaded
    if args.dry_run:
        from orchestrator.run.dry_run import dry_run

        return dry_run(sweep, families, args.sweep, database_url(args.db, sweep.name))
    from orchestrator.run.device import find_device
    from orchestrator.run.stages import Workforce

    device = find_device(sweep.compute.device, args.executor)
    plan = expand(sweep, families, args.sweep, on_gpu=device == "cuda")
    workforce = Workforce(worker or _default_worker, args.executor, args.wait)
    return _run(sweep, plan, device, workforce, args)


def _default_worker() -> Any:
    from orchestrator.run.worker import Worker  # imports torch: where it runs, not in the driver

    return Worker()


def _run(
    sweep: Sweep, plan: Plan, device: str, workforce: Workforce, args: argparse.Namespace
) -> int:
    from orchestrator.run.stages import Stages
    from orchestrator.store.measured import missing_protocols
    from orchestrator.study.outcome import Cause

    interrupt = current()
    with _database(database_url(args.db, sweep.name)) as store:
        plan = as_stored(plan, store.revision_of)
        missing = missing_protocols(plan.asked, store.stored_measurements())
        drop_unavailable(plan, {experiment.model.name for experiment, _ in missing})
        problems = list(plan.broken.values())
        for problem in problems if plan.models else problems[:-1]:
            print(f"error: {problem}", file=sys.stderr, flush=True)
        if not plan.models:
            raise problems[-1]
        for line in refusal_lines(plan.refused):
            print(f"error: {line}", file=sys.stderr, flush=True)
        print(f"database: {store.url}", flush=True)
        try:
            with interrupt:
                stages = Stages(sweep, plan, store, device, workforce, interrupt)
                stages.retry_failed = args.retry_failed
                verdict = stages.run()
            if interrupt():
                raise Stopped
            failed = store.failures_of(plan.asked)
            _print_outcome(plan, len(failed), verdict, store.url)
        except Rescued:  # says what to do
            raise
        except SweepStopped as error:
            raise SweepStopped(f"{error}; the same command goes on") from None
    unusable = bool(plan.broken) or any(failure.cause == Cause.MODEL for failure in failed.values())
    return 2 if unusable else 1 if failed else 0


@contextmanager
def _database(url: str) -> Iterator[Store]:
    """The database, to be written by this sweep alone. One that was made for nothing, since the
    sweep cannot be run or no node holds it, goes again: an empty file would be what every command
    reads by default."""
    from orchestrator.store.engine import sqlite_file
    from orchestrator.store.store import Store

    file = sqlite_file(url)
    made = file is not None and not file.exists()
    store = Store.create(url)
    try:
        with store.lock():
            yield store
        return
    except (InputError, SweepStopped) as error:
        if not made or isinstance(error, Rescued) or not store.attempts().empty:
            raise
        problem: Exception = error
        if isinstance(error, SweepStopped):  # its name has been said
            problem = SweepStopped(f"{error}; nothing was stored, so no database is left")
    finally:
        with current().held():  # SQLAlchemy would print what is raised while it closes
            store.close()
    assert file is not None
    for suffix in ("", "-wal", "-shm", ".lock"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    raise problem


def _print_outcome(plan: Plan, failed: int, verdict: Verdict | None, url: str) -> None:
    from orchestrator.run.stages import dropped

    n = len(plan.experiments)
    if failed:
        print(f"{failed} of {n} experiments have failed: kbit status --db {url}")
    elif verdict is None:
        print(f"all {n} experiments are stored in {url}")
    else:
        print(
            f"{len(verdict.corpora)} experiments are stored on corpora, {len(verdict.tasks)} on "
            f"tasks, {dropped(plan, verdict)} as dropped by their samples, in {url}"
        )


def main(argv: list[str] | None = None, worker: Callable[[], Any] | None = None) -> int:
    parser = Parser(
        prog="sweep.py",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add_arguments(parser)
    args = parser.parse_args(argv)
    return ending(lambda: run(args, worker))


if __name__ == "__main__":
    sys.exit(run_program(main))
