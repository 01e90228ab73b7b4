"""Train what a study lacks, one run a worker: on Ray, or one after the other in this process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import DiskFull, Diverged
from training.study import Run

Outcome = list[dict[str, Any]] | Diverged  # the manifests by step
PROGRESS_SECONDS = 5.0


@dataclass(frozen=True)
class Place:
    """Where a study's runs find text and tokenizer, and leave their models."""

    text: str
    tokenizer: Path
    output: Path


def train_run(run: Run, place: Place, say: Callable[[str], None] | None = None) -> Outcome:
    """Train one run to its end, from its checkpoint if there is one. What it says is in train.log,
    and said.

    Raises what `train` raises but Diverged, which is an outcome.
    """
    from training.text import load_text
    from training.tokenizer import load_tokenizer
    from training.train import train

    folder = place.output / run.name
    folder.mkdir(parents=True, exist_ok=True)
    if not is_complete(run, place):
        with (folder / "train.log").open("a", buffering=1) as file:

            def log(line: str) -> None:
                print(line, file=file)
                if say is not None:
                    say(f"{run.name}: {line}")

            try:
                train(
                    run.recipe,
                    load_tokenizer(place.tokenizer),
                    folder,
                    load_text(place.text),
                    run.keep,
                    log,
                )
            except Diverged as diverged:
                (folder / "checkpoint.pt").unlink(missing_ok=True)
                return diverged
    return [json.loads((f / "manifest.json").read_text()) for f in model_folders(run, place)]


def model_folders(run: Run, place: Place) -> list[Path]:
    """Of the kept steps in order, and of the end."""
    folder = place.output / run.name
    return [*(folder / f"step-{step:06d}" for step in run.keep), folder]


def is_complete(run: Run, place: Place) -> bool:
    """Whether the weights of all its kept steps are here."""
    return all((folder / "manifest.json").exists() for folder in model_folders(run, place))


def last_line(run: Run, place: Place) -> str:
    """What a run said last, "" before it has."""
    log = place.output / run.name / "train.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return lines[-1] if lines else ""


def in_this_process(
    runs: list[Run], place: Place, say: Callable[[str], None]
) -> Generator[tuple[Run, Outcome], None, None]:
    """Runs with their outcomes as they end."""
    for run in runs:
        yield run, train_run(run, place, say)


def on_ray(
    runs: list[Run], place: Place, report: Callable[[list[Run]], None]
) -> Generator[tuple[Run, Outcome], None, None]:
    """The same on a cluster: a GPU a run where there are any, else the recipe's threads as CPUs.

    The output folder has to be one that all nodes share. A run whose worker is lost starts again
    from its checkpoint. `report` is called every few seconds with the runs that are left.
    """
    import ray
    from ray.exceptions import RayTaskError

    from orchestrator.run.cluster import check_alive, has_gpu
    from orchestrator.run.connection import join_cluster, start_ray

    # See training/memory.py. Workers of a cluster of our own have it from this process, without a
    # runtime environment, which takes time to make.
    large_pages = {"env_vars": {"THP_MEM_ALLOC_ENABLE": "1"}} if join_cluster() else {}
    start_ray()
    gpus = 1 if has_gpu() else 0
    remote = ray.remote(max_retries=3, runtime_env=large_pages)(train_run)
    pending = {
        remote.options(num_cpus=run.recipe.threads, num_gpus=gpus).remote(run, place): run
        for run in runs
    }
    reported = time.monotonic()
    try:
        while pending:
            ready, _ = ray.wait(list(pending), timeout=1.0)
            for reference in ready:
                run = pending.pop(reference)
                try:
                    yield run, ray.get(reference)
                except RayTaskError as error:
                    cause = error.cause
                    if isinstance(cause, ValueError | DiskFull):
                        raise cause from None
                    raise
            if not ready:
                check_alive()
            if time.monotonic() - reported >= PROGRESS_SECONDS:
                reported = time.monotonic()
                report(list(pending.values()))
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)
