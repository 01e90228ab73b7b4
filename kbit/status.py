"""`kbit status`: what a database holds, and whether it is sound."""

from __future__ import annotations

import argparse
import sys

import pandas as pd

from kbit.database import add_db, open_store
from kbit.output import add_format, print_frame
from orchestrator.store.reading import diverged_experiments, imported_counts, read_site_records
from orchestrator.store.store import Store
from orchestrator.store.verify import problems
from orchestrator.study.outcome import Stage, Status
from quantizers.setting import SETTING_COLUMNS, Setting

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
    listed = parser.add_mutually_exclusive_group()
    listed.add_argument("--failed", action="store_true", help="list the failed experiments")
    listed.add_argument(
        "--worse", action="store_true", help="list matrices where GPTQ did worse than nearest"
    )


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
    sites = gptq_sites(store)
    worse = sites[sites["loss"] > sites["loss_nearest"]]
    if args.worse:
        print_frame(worse, args.format)
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
        if diverged := diverged_experiments(store):
            print(f"{diverged} experiments diverged: kbit results shows scores that are no number")
        if len(worse):
            print(
                f"GPTQ did worse than nearest at {len(worse)} of {len(sites)} matrices it rounded"
            )
        for row in worse.head(5).to_dict("records"):
            losses = f"{row['loss']:.4g} against {row['loss_nearest']:.4g}"
            print(
                f"  worse: {row['model']} at {Setting.from_row(row).label}: {row['site']}: {losses}"
            )
        if len(worse) > 5:
            print(f"  ... and {len(worse) - 5} more: kbit status --worse")
        if not wrong:
            print("verified: the database is sound, with one set of measurements an experiment")
    return 3 if wrong else 0


def gptq_sites(store: Store) -> pd.DataFrame:
    """One row a matrix of an experiment by GPTQ: `model`, the setting's columns, `site`, and what
    the output error costs, tr(D H D^T): `loss`, and `loss_nearest` of rounding to nearest."""
    records = read_site_records(store, ["loss", "loss_nearest"])
    places = ["experiment_id", "site"]
    losses = records.pivot(index=places, columns="quantity", values="value")
    losses = losses.reindex(columns=["loss", "loss_nearest"])
    sites = records[["experiment_id", "model", *SETTING_COLUMNS, "site"]].drop_duplicates(places)
    return sites.merge(losses.reset_index(), on=places).drop(columns="experiment_id")


def newest_of_sweeps(attempts: pd.DataFrame) -> pd.DataFrame:
    """One attempt an experiment: one that failed and was not made up for since, else the newest.
    What other commands measured is no sweep's."""
    attempts = attempts[attempts["stage"] != Stage.COMMAND]
    return attempts.sort_values("unresolved", kind="stable").groupby("experiment_id").tail(1)


def failed_experiments(attempts: pd.DataFrame) -> pd.DataFrame:
    """The newest failed attempt of every experiment of which something is without scores."""
    newest = newest_of_sweeps(attempts)
    return newest[newest["unresolved"]]
