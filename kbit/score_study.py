"""`kbit score-study`: quantize, score and analyze the models that a training study has left."""

from __future__ import annotations

import argparse
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from kbit.study_file import OpenedStudy, open_study
from orchestrator.errors import InputError
from orchestrator.paths import find_sweep

if TYPE_CHECKING:
    from orchestrator.store.store import Store
    from orchestrator.study.models import ModelEntry
    from training.study import Run

EXAMPLE = (
    "example: kbit score-study sweeps/training.yaml\n"
    "Each run that `kbit train-study` has finished goes through the study's sweeps (`ladder`),\n"
    "its last model through `kbit analyze`. Its rows are then added to results.csv.gz and\n"
    "items.npz in the folder `results`; a run with rows there is done, though its weights are\n"
    "gone. The same command again, while training goes on or later, scores what is new."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", type=Path, nargs="?", default=Path("training"))
    parser.add_argument("--dry-run", action="store_true", help="print what is missing and stop")
    parser.add_argument("--executor", choices=("ray", "local"), default="ray")


def run(args: argparse.Namespace) -> int:
    from training.run_study import is_complete

    args.study = find_sweep(args.study)
    study = open_study(args.study)
    if not study.ladder:
        raise InputError(f"{args.study}: ladder: missing; give the sweeps that score its models")
    for sweep in study.ladder:
        if not sweep.exists():
            raise InputError(f"{args.study}: ladder: {sweep}: no such file")
    scored = _scored_runs(study.results)
    left = [run for run in study.runs if run.name not in scored]
    trained = [run for run in left if is_complete(run, study.place)]
    print(f"{len(study.runs)} runs: {len(study.runs) - len(left)} scored, {len(trained)} to score, "
          f"{len(left) - len(trained)} without weights here")  # fmt: skip
    if args.dry_run or not trained:
        return 0
    worst = 0
    for run in trained:
        code = _score(study, run, args.executor)
        if code > 1:
            return code
        worst = max(worst, code)
        print(f"{run.name}: added to {study.results}", flush=True)
    return worst


def _scored_runs(folder: Path) -> set[str]:
    return set(_stored(folder)["run"].dropna()) if (folder / "results.csv.gz").exists() else set()


def _stored(folder: Path) -> pd.DataFrame:
    from analysis.documents.study_data import read_study

    try:
        return read_study(folder)[0]
    except (FileNotFoundError, ValueError) as error:
        raise InputError(str(error)) from None


def _score(study: OpenedStudy, run: Run, executor: str) -> int:
    """One run, all of it, added to the stored results. The exit code: 1 where experiments failed,
    above that nothing was added."""
    from orchestrator import sweep
    from orchestrator.paths import database_url
    from orchestrator.store.store import Store
    from orchestrator.study.models import load_models
    from training.run_table import write_models_file

    models, database = study.place.output / "scoring.yaml", study.place.output / "scores.db"
    write_models_file(models, [run], study.place.tokenizer)
    try:
        parser = argparse.ArgumentParser()
        sweep.add_arguments(parser)
        shared = ["--db", str(database), "--models", str(models), "--executor", executor]
        code = max(sweep.run(parser.parse_args([str(path), *shared])) for path in study.ladder)
        if code > 1:
            return code
        entries = [entry for family in load_models(models).values() for entry in family]
    finally:
        models.unlink()
    with closing(Store.create(database_url(str(database)))) as store:
        (last,) = (entry for entry in entries if entry.step == run.recipe.steps)
        _analyze(study, run, last, store)
        _add(study.results, run, store)
    return code


def _analyze(study: OpenedStudy, run: Run, entry: ModelEntry, store: Store) -> None:
    """What a model's weights and activations look like, as measurements of it at 16 bit."""
    import torch

    from evaluation.statistics.model_analysis import ModelAnalysis
    from evaluation.statistics.outlier_dimensions import WINDOWS
    from kbit.analyze import as_measurement
    from kbit.model_windows import model_and_windows
    from kbit.record import store_measurements
    from orchestrator.study.spec import load_sweep
    from quantizers.setting import Setting

    corpora = [corpus.source for path in study.ladder for corpus in load_sweep(path).corpora]
    if not corpora:
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, windows, protocol = model_and_windows(entry, corpora[0], device, windows=WINDOWS)
    threshold = _searched_threshold(study.results, run)
    measured = as_measurement(ModelAnalysis(model, windows), protocol, threshold)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    store_measurements(store, entry, Setting.make(16), device, name, [measured])


def _searched_threshold(folder: Path, run: Run) -> float | None:
    """That of the smallest model of the control with this run's seed, if it is stored."""
    if not (folder / "results.csv.gz").exists():
        return None
    rows = _stored(folder)
    control = (rows["variant"] == "control") & (rows["seed"] == run.recipe.seed)
    found = rows[control & (rows["metric"] == "outlier_threshold_searched")]
    return None if found.empty else float(found.sort_values("n_params")["value"].iloc[0])


def _add(folder: Path, run: Run, store: Store) -> None:
    from analysis.documents.study_data import add_to_study
    from orchestrator.store.reading import read_item_scores, read_results

    rows = read_results(store)
    add_to_study(folder, rows[rows["run"] == run.name], partial(read_item_scores, store))
