"""`kbit status`: what a database holds, and whether it is sound."""

from __future__ import annotations

import argparse
import sys

import pandas as pd

from kbit.database import add_db, open_store
from kbit.output import add_format, print_frame
from orchestrator.store.reading import imported_counts
from orchestrator.store.verify import problems
from orchestrator.study.outcome import Stage, Status
from quantizers.setting import SETTING_COLUMNS

EXAMPLE = "example: kbit status --db results/demo.db"
FAILURE_COLUMNS = [
    "family",
    "model",
    *SETTING_COLUMNS,
    "finished_at",
    "error",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_db(parser)
    add_format(parser)
    parser.add_argument("--failed", action="store_true", help="list the failed experiments")


def run(args: argparse.Namespace) -> int:
    store = open_store(args.db)
    attempts = store.attempts()
    newest = newest_of_sweeps(attempts)
    failed = failed_experiments(attempts)
    wrong = problems(store)
    for problem in wrong:
        print(f"error: {store.url}: {problem}", file=sys.stderr)
    if args.failed:
        print_frame(failed[FAILURE_COLUMNS], args.format)
        return 3 if wrong else 0
    counts = (
        newest.assign(
            done=newest["status"].isin([Status.DONE, Status.FAILED]) & ~newest["unresolved"],
            failed=newest["unresolved"],
            dropped=newest["status"] == Status.DROPPED,
            seconds=newest[["seconds_load", "seconds_quantize", "seconds_score"]].sum(axis=1),
        )
        .groupby(["family", "bits"], as_index=False)
        .agg(
            models=("model", "nunique"),
            done=("done", "sum"),
            failed=("failed", "sum"),
            dropped=("dropped", "sum"),
            seconds=("seconds", "sum"),
        )
    )
    counts.insert(0, "source", "kbit")
    imported = imported_counts(store).rename(columns={"experiments": "done"})
    print_frame(pd.concat([c for c in (counts, imported) if len(c)] or [counts]), args.format)
    if args.format == "table":
        others = f", {imported['done'].sum()} imported" if len(imported) else ""
        print(f"\n{store.url}: {len(newest)} experiments, {len(failed)} failed{others}")
        for row in failed.head(5).itertuples():
            print(f"  failed: {row.model} at {row.bits} bit: {row.error}")
        if len(failed) > 5:
            print(f"  ... and {len(failed) - 5} more: kbit status --failed")
        if not wrong:
            print("verified: the database is sound, with one set of measurements an experiment")
    return 3 if wrong else 0


def newest_of_sweeps(attempts: pd.DataFrame) -> pd.DataFrame:
    """One attempt an experiment: one that failed and was not made up for since, else the newest.
    What other commands measured is no sweep's."""
    attempts = attempts[attempts["stage"] != Stage.COMMAND]
    return attempts.sort_values("unresolved", kind="stable").groupby("experiment_id").tail(1)


def failed_experiments(attempts: pd.DataFrame) -> pd.DataFrame:
    """The newest failed attempt of every experiment of which something is without scores."""
    newest = newest_of_sweeps(attempts)
    return newest[newest["unresolved"]]
