"""`kbit report`: one self-contained HTML file with figures and tables."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pandas as pd

from kbit.database import add_db, item_scores_of, open_store, screened_out
from kbit.status import FAILURE_COLUMNS, failed_experiments
from orchestrator.errors import InputError
from orchestrator.outputs import file_to_write, results_folder, writing

EXAMPLE = "example: kbit report --db results/demo.db --output results/demo.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from analysis.curves.scaling import AXES

    add_db(parser)
    parser.add_argument(
        "--output", type=Path, help="the HTML file (default: beside the database, or in results/)"
    )
    parser.add_argument(
        "--axis", choices=tuple(AXES), default="total", help="what counts as size (default: total)"
    )
    parser.add_argument("--task", help="only this task, task set or corpus (default: all)")


def run(args: argparse.Namespace) -> int:
    from analysis.documents.report import Run, write_report
    from kbit.figures import illustrations
    from orchestrator.store.reading import mark_screened, read_results

    given = file_to_write(args.output) if args.output else None
    if given:
        _refuse_database(given)
    store = open_store(args.db)
    output = given or _beside(store.url)
    _refuse_database(output)
    results, attempts = mark_screened(read_results(store), store), store.attempts()
    failures = failed_experiments(attempts)[FAILURE_COLUMNS]
    if results.empty:
        raise InputError(f"{store.url}: no results yet; run a sweep first")
    seconds = attempts[["seconds_load", "seconds_quantize", "seconds_score"]].to_numpy().sum()
    settings = {
        "database": store.url,
        "experiments": int(results["experiment_id"].nunique()),
        "models": int(results["model"].nunique()),
        "metrics stored": len(results),
        "worker time": f"{seconds / 60:.1f} minutes",
        "run": f"{attempts['finished_at'].min()} to {attempts['finished_at'].max()}",
        "devices": ", ".join(sorted(set(attempts["device"]) - {""})),
        "versions": _versions(attempts),
    }
    if note := screened_out(store, args.axis):
        settings["screening"] = note
        print(note, file=sys.stderr)
    try:
        beside = Run(failures, settings, illustrations(store, results))
        scores = item_scores_of(store)
        with writing(output):
            written = write_report(results, output, args.axis, args.task, scores, beside)
    except ValueError as error:
        raise InputError(str(error)) from None
    print(f"report: {written.resolve()}")
    return 0


def _beside(url: str) -> Path:
    """The HTML file beside a database file, or in the results folder where that cannot be."""
    if url.startswith("sqlite:///"):
        path = Path(url.removeprefix("sqlite:///")).with_suffix(".html")
        return path if os.access(path.parent, os.W_OK) else results_folder() / path.name
    return results_folder() / "report.html"


def _refuse_database(path: Path) -> None:
    """This one, or another: no report is worth it."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        if file.read(16) == b"SQLite format 3\0":
            raise InputError(f"{path}: is a database, not to be overwritten; give another --output")


def _versions(attempts: pd.DataFrame) -> str:
    newest: dict[str, str] = next((v for v in reversed(list(attempts["versions"])) if v), {})
    return ", ".join(f"{name} {version}" for name, version in newest.items())
