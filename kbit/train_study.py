"""`kbit train-study`: train the models that a study file asks for and that are not there yet."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kbit.study_file import open_study
from orchestrator.errors import InputError, SweepStopped
from orchestrator.paths import find_sweep
from quantizers.plain import plain

if TYPE_CHECKING:
    from training.run_study import Outcome, Place
    from training.study import Run

EXAMPLE = (
    "example: kbit train-study sweeps/training.yaml --dry-run\n"
    "Weights and a models.yaml for `kbit sweep --models` go to the study's output folder, a table\n"
    "of the runs (runs.csv) to its folder of results, if it names one. The same command again\n"
    "trains what is missing. On a CPU, half precision is emulated: the same bits on every run."
)

CORE_FLOPS = 45e9
GPU_FLOPS, GPU_SHARE = 989e12, 0.4  # H100, bf16, dense


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", type=Path, help="a study file")
    parser.add_argument("--text", help="train on this instead: a folder of .txt documents")
    parser.add_argument("--dry-run", action="store_true", help="print what is missing and stop")
    parser.add_argument("--executor", choices=("ray", "local"), default="ray")


def run(args: argparse.Namespace) -> int:
    from training.memory import keep_freed_memory

    keep_freed_memory()  # before torch is imported
    from training.errors import DiskFull
    from training.run_table import RunTable, Source, write_models_file
    from training.study import tokenizer_digest
    from training.text import load_text, write_samples

    args.study = find_sweep(args.study)
    study = open_study(args.study, args.text)
    runs, place = study.runs, study.place
    try:
        if args.dry_run and not study.has_tokenizer:  # nor any run that has used it
            print(f"{len(runs)} runs to train\n{_cost(runs)}")
            return 0
        text = load_text(place.text)
        if not study.has_tokenizer:
            from training.tokenizer import train_tokenizer

            vocabulary, context = runs[0].recipe.vocab_size, runs[0].recipe.context
            train_tokenizer(text.training, place.tokenizer, vocabulary, context)
        source = Source(text.version, tokenizer_digest(place.tokenizer))
        table = RunTable(study.results / "runs.csv", source)
        missing = [run for run in runs if not table.finished(run)]
        print(f"{len(runs)} runs: {len(runs) - len(missing)} finished, {len(missing)} to train")
        if args.dry_run:
            print(_cost(missing))
            return 0
        _check_folders(missing, place)
        _say_emulated(missing, args.executor)
        if place.text != "sotu":
            write_samples(text, place.output)
        for finished, outcome in _outcomes(missing, place, args.executor):
            table.add(finished, outcome)
            write_models_file(place.output / "models.yaml", runs, place.tokenizer)
            print(_told(finished, outcome), flush=True)
        count = write_models_file(place.output / "models.yaml", runs, place.tokenizer)
    except DiskFull as error:
        raise SweepStopped(f"{error}; the same command goes on") from None
    except ValueError as error:
        raise InputError(f"{args.study}: {error}") from None
    except OSError as error:
        raise InputError(f"{args.study}: {plain(error)}") from None
    print(f"{table.path} has all runs; {count} models in {place.output / 'models.yaml'}")
    return 0


def _check_folders(runs: list[Run], place: Place) -> None:
    """A folder that holds another recipe's model is not written over."""
    import json

    from training.recipe import Recipe

    for run in runs:
        manifest = place.output / run.name / "manifest.json"
        if not manifest.exists():
            continue
        if Recipe.from_dict(json.loads(manifest.read_text())["recipe"]) != run.recipe:
            raise ValueError(f"{manifest}: a model of another recipe; move it or change `output`")


def _say_emulated(runs: list[Run], executor: str) -> None:
    from orchestrator.run.device import find_device

    half = any(run.recipe.dtype != "fp32" for run in runs)
    if half and find_device("auto", executor) == "cpu":
        print("no GPU here: half precision is emulated, its products rounded from fp32")


def _outcomes(runs: list[Run], place: Place, executor: str) -> Iterator[tuple[Run, Outcome]]:
    from training.run_study import in_this_process, last_line, on_ray

    if not runs:
        return iter(())
    if executor == "local":
        return in_this_process(runs, place, lambda line: print(line, flush=True))

    def report(left: list[Run]) -> None:
        lines = [f"{run.name}: {said}" for run in left if (said := last_line(run, place))]
        print(f"{len(runs) - len(left)}/{len(runs)} runs; " + "; ".join(lines[:4]), flush=True)

    return on_ray(runs, place, report)


def _told(run: Run, outcome: Outcome) -> str:
    if isinstance(outcome, ArithmeticError):
        return f"{run.name}: diverged at {outcome}"
    return f"{run.name}: held-out loss {outcome[-1]['heldout_loss']:.4f} nats/token"


def _cost(runs: list[Run]) -> str:
    """Of training alone; what a core reaches was measured on 64x4, what a GPU may is assumed."""
    tokens, flops = (sum(getattr(run.recipe, key) for run in runs) for key in ("tokens", "flops"))
    core, gpu = flops / CORE_FLOPS / 3600, flops / (GPU_SHARE * GPU_FLOPS) / 3600
    hours = f"{core:,.1f} hours of a CPU core"
    if core > 1000:
        hours = f"{gpu:,.0f} GPU-hours at {GPU_SHARE:.0%} of an H100's 989 TFLOP/s"
    return f"{tokens:,} tokens, {flops:.3g} FLOPs: about {hours}"
