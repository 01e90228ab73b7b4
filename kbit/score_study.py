"""`kbit score-study`: quantize, score and analyze the models that a training study has left."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from kbit.study_file import OpenedStudy, open_study
from kbit.study_looks import look_at, scored_rows
from orchestrator.errors import InputError
from orchestrator.paths import find_sweep
from orchestrator.study.models import ModelEntry

if TYPE_CHECKING:
    from training.study import Run

EXAMPLE = (
    "example: kbit score-study sweeps/training.yaml\n"
    "Each run that `kbit train-study` has finished goes through the study's sweeps (`ladder`),\n"
    "its last model through `kbit analyze`. Its rows are then added to results.csv.gz and\n"
    "items.npz in the folder `results`; a run with rows there is done, though its weights are\n"
    "gone. The same command again, while training goes on or later, scores what is new."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", type=Path, help="a study file")
    parser.add_argument("--dry-run", action="store_true", help="print what is missing and stop")
    parser.add_argument("--executor", choices=("ray", "local"), default="ray")


def run(args: argparse.Namespace) -> int:
    from analysis.claims.intriguing.runs import is_planted
    from kbit.analyze import parse_plant
    from training.run_study import is_complete

    args.study = find_sweep(args.study)
    study = open_study(args.study)
    if not study.ladder:
        raise InputError(f"{args.study}: ladder: missing; give the sweeps that score its models")
    for told in study.plants:
        parse_plant(told)
    for sweep in (*study.ladder, *study.others):
        if not sweep.exists():
            raise InputError(f"{args.study}: {sweep}: no such file")
    scored = scored_rows(study.results)
    left = [run for run in study.runs if run.name not in scored["run"].to_list()]
    trained = [run for run in left if is_complete(run, study.place)]
    print(f"{len(study.runs)} runs: {len(study.runs) - len(left)} scored, {len(trained)} to score, "
          f"{len(left) - len(trained)} without weights here")  # fmt: skip
    if args.dry_run:
        return 0
    worst = 0
    for run in trained:
        code = _score_run(study, run, args.executor)
        if code > 1:
            return code
        worst = max(worst, code)
        print(f"{run.name}: added to {study.results}", flush=True)
    if study.plants and is_complete(study.runs[0], study.place) and not is_planted(scored).any():
        worst = max(worst, _score_plants(study, args.executor))
    if not scored["run"].isna().any():
        codes = [_score_others(study, path, args.executor) for path in study.others]
        worst = max([worst, *codes])
    return worst


def _score_run(study: OpenedStudy, run: Run, executor: str) -> int:
    """One run, all of it, added to the stored results. The exit code: 1 where experiments failed,
    above that nothing was added."""
    from orchestrator.study.models import load_models
    from training.run_table import write_models_file

    models = study.place.output / "scoring.yaml"
    write_models_file(models, [run], study.place.tokenizer)
    try:
        code = max(_sweep(study, path, executor, models) for path in study.ladder)
        entries = [entry for family in load_models(models).values() for entry in family]
    finally:
        models.unlink()
    if code <= 1:
        _add(study, entries, [entry for entry in entries if entry.step == run.recipe.steps])
    return code


def _score_plants(study: OpenedStudy, executor: str) -> int:
    """The first run's last model with outliers planted: what metrics and damage should follow."""
    from kbit.planted import write_planted
    from orchestrator.study.models import load_models

    models = write_planted(study)
    code = max(_sweep(study, path, executor, models) for path in study.ladder)
    if code <= 1:
        entries = [entry for family in load_models(models).values() for entry in family]
        _add(study, entries, entries)
        print(f"planted outliers: added to {study.results}", flush=True)
    return code


def _score_others(study: OpenedStudy, path: Path, executor: str) -> int:
    """Models that the study did not train, of a sweep that names them."""
    from orchestrator.study.models import load_models
    from orchestrator.study.spec import load_sweep, select_models

    code = _sweep(study, path, executor)
    if code <= 1:
        entries = select_models(load_sweep(path).models, load_models(), str(path))
        _add(study, entries, entries)
    return code


def _sweep(study: OpenedStudy, path: Path, executor: str, models: Path | None = None) -> int:
    from orchestrator import sweep

    parser = argparse.ArgumentParser()
    sweep.add_arguments(parser)
    given = [str(path), "--db", str(_database(study)), "--executor", executor]
    return sweep.run(parser.parse_args([*given, *(["--models", str(models)] if models else [])]))


def _database(study: OpenedStudy) -> Path:
    return study.place.output / "scores.db"


def _add(study: OpenedStudy, entries: Sequence[ModelEntry], analyzed: Sequence[ModelEntry]) -> None:
    """Analyze some of the models, then add all rows of `entries` to the stored results."""
    import pandas as pd

    from analysis.documents.study_data import add_to_study, add_to_table
    from kbit.database import item_scores_of
    from orchestrator.paths import database_url
    from orchestrator.store.reading import read_results
    from orchestrator.store.store import Store

    with closing(Store.create(database_url(str(_database(study))))) as store:
        scored = scored_rows(study.results)
        looks = [look_at(study, entry, store, scored) for entry in analyzed]
        add_to_table(study.results, "matrices", pd.concat(looks, ignore_index=True), "model")
        rows = read_results(store)
        mine = rows["model"].isin([entry.name for entry in entries])
        add_to_study(study.results, rows[mine], item_scores_of(store))
