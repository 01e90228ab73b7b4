"""`kbit optimal`: which model size and precision is best for a memory budget."""

from __future__ import annotations

import argparse

import pandas as pd

from analysis.budget import parse_budget
from analysis.curves import AXES
from analysis.metrics import METRICS
from analysis.optimal import optimal
from analysis.shares import optimal_table, win_shares
from analysis.wording import answer_sentence, finding
from kbit.database import add_db, open_store
from kbit.output import add_format, print_frame
from orchestrator.errors import InputError

EXAMPLE = (
    "example: kbit optimal --budget 300KiB --family sotu-neox\n"
    "Without --budget: a table over the budgets where curves overlap."
)
TABLE_COLUMNS = [
    "family",
    "budget",
    "setting",
    "value",
    "stderr",
    "runner_up",
    "lead_in_stderr",
    "best_fit_model",
    "best_fit_setting",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--budget", help="memory for the weights: 300KiB, 4GiB, or bits")
    parser.add_argument("--family", help="only this family")
    parser.add_argument("--metric", choices=tuple(METRICS), default="zero_shot")
    parser.add_argument(
        "--axis", choices=tuple(AXES), default="total", help="what counts as size (default: total)"
    )
    add_db(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    results = open_store(args.db).results()
    if results.empty:
        raise InputError("the database holds no results yet; run a sweep first")
    try:
        if args.budget is None:
            _print_overview(results, args)
            return 0
        answers = optimal(results, parse_budget(args.budget), args.family, args.metric, args.axis)
    except ValueError as error:
        raise InputError(str(error)) from None
    if args.format == "table":
        for answer in answers:
            print(answer_sentence(answer))
        print(f"size counted: {args.axis} bits; metric: {args.metric}")
    else:
        print_frame(pd.DataFrame([answer.as_row() for answer in answers]), args.format)
    return 0


def _print_overview(results: pd.DataFrame, args: argparse.Namespace) -> None:
    table = optimal_table(results, args.family, args.metric, args.axis)
    if args.format != "table":
        print_frame(table, args.format)
        return
    print_frame(table[TABLE_COLUMNS], "table")
    print()
    print(finding(win_shares(results, args.metric, args.axis, by="bits"), args.metric))
    print(f"size counted: {args.axis} bits; metric: {args.metric}")
