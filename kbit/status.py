"""`kbit status`: what a database holds."""

from __future__ import annotations

import argparse

import pandas as pd

from kbit.database import add_db, open_store
from kbit.output import add_format, print_frame
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
    newest = attempts.groupby("experiment_id", sort=False).tail(1)
    failed = failed_experiments(attempts)
    if args.failed:
        print_frame(failed[FAILURE_COLUMNS], args.format)
        return 0
    counts = (
        newest.assign(
            done=newest["status"] == "done",
            failed=newest["status"] == "failed",
            dropped=newest["status"] == "dropped",
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
    print_frame(counts, args.format)
    if args.format == "table":
        print(f"\n{store.url}: {len(newest)} experiments, {len(failed)} failed")
        for row in failed.head(5).itertuples():
            print(f"  failed: {row.model} at {row.bits} bit: {row.error}")
        if len(failed) > 5:
            print(f"  ... and {len(failed) - 5} more: kbit status --failed")
    return 0


def failed_experiments(attempts: pd.DataFrame) -> pd.DataFrame:
    """The newest attempt of every experiment, where that one failed for good."""
    newest = attempts.groupby("experiment_id", sort=False).tail(1)
    return newest[newest["status"] == "failed"]
