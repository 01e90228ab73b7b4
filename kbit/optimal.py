"""`kbit optimal`: which model size and precision is best for a memory budget, and the inverse."""

from __future__ import annotations

import argparse
import sys

import pandas as pd

from analysis.answers.costs import setting_costs
from analysis.answers.inverse import pareto_front, smallest_budget
from analysis.answers.latency import LATENCY
from analysis.answers.optimal import check_family, optimal
from analysis.answers.serving import METRICS as SERVING
from analysis.answers.shares import optimal_table
from analysis.answers.universal import certain_shares
from analysis.curves.budget import parse_budget
from analysis.curves.metrics import METRICS, needed_rows
from analysis.curves.names import name_metric
from analysis.curves.points import curve_points
from analysis.curves.protocols import left_out_sentences
from analysis.curves.remembering import remembered
from analysis.curves.rows import metric_rows
from analysis.curves.scaling import AXES
from analysis.findings.finding import find
from analysis.findings.wording import (
    CALIBRATED,
    LEADS,
    answer_sentence,
    certainty_sentence,
    headline,
    scored_on,
    verdict_sentence,
)
from analysis.noise.bootstrap import ItemScores
from kbit.database import add_db, item_scores_of, open_store, screened_out
from kbit.formats import print_degradation, print_formats, print_shares
from kbit.memory import print_memory
from kbit.output import add_format, print_frame
from orchestrator.arguments import belongs_to, does_nothing_beside, positive, whole
from orchestrator.errors import InputError
from orchestrator.store.reading import mark_screened, read_results
from orchestrator.store.store import Store

EXAMPLE = (
    "example: kbit optimal --budget 300KiB --family sotu-neox\n"
    "         kbit optimal --reach 0.62           # the fewest bits with this accuracy\n"
    "         kbit optimal --memory 24GiB --context 4096\n"
    "         kbit optimal --formats              # W4A16, W8A8 or W4A8?\n"
    "Without any of them: a table over the budgets where curves overlap."
)
TABLE_COLUMNS = [
    "family",
    "budget",
    "setting",
    "value",
    "stderr",
    "runner_up",
    "lead_in_stderr",
    "setting_probability_items",
    "best_fit_model",
    "best_fit_setting",
]
COST_COLUMNS = ["model", "setting", "value", "difference", "low", "high", "errors"]
SPEED = {(None, name) for name in (LATENCY, *SERVING)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    question = parser.add_mutually_exclusive_group()
    question.add_argument("--budget", help="memory for the weights: 300KiB, 4GiB, or bits")
    question.add_argument(
        "--reach",
        type=positive,
        metavar="VALUE",
        help="the smallest budget with this accuracy (0.62), cross-entropy or perplexity",
    )
    question.add_argument("--memory", help="memory for weights and context: what fits, best first")
    question.add_argument(
        "--pareto", action="store_true", help="the experiments that no smaller one matches"
    )
    question.add_argument(
        "--formats", action="store_true", help="weights alone or activations too, at equal bits"
    )
    question.add_argument(
        "--degradation", action="store_true", help="percent lost against 16 bit, by task"
    )
    parser.add_argument("--context", type=whole(0), help="with --memory: tokens to keep room (0)")
    parser.add_argument("--batch", type=whole(1), help="with --memory: sequences at a time (1)")
    parser.add_argument("--family", help="only this family")
    parser.add_argument(
        "--metric",
        choices=tuple(METRICS),
        help="default: zero_shot, cross_entropy where no task was scored",
    )
    parser.add_argument(
        "--task", help="a task, task set or corpus (default: what most experiments were scored on)"
    )
    parser.add_argument("--axis", choices=tuple(AXES), help="what counts as size (default: total)")
    add_db(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    _check_together(args)
    args.axis = args.axis or "total"
    try:
        for text in (args.budget, args.memory):
            if text is not None:
                parse_budget(text)  # a mistake is said before a database is read
    except ValueError as error:
        raise InputError(str(error)) from None
    store = open_store(args.db)
    args.metric, results = _answerable(store, args)
    if note := screened_out(store, args.axis):
        print(note, file=sys.stderr)
    try:
        with remembered():
            if args.budget is not None:
                _answer(results, item_scores_of(store), args)
            elif args.reach is not None:
                _reach(results, args)
            elif args.memory is not None:
                print_memory(results, store, args)
            elif args.formats:
                print_shares(_asked(results, args), item_scores_of(store), args.format)
                _print_what_was_counted(results, args)
            elif args.degradation:
                args.metric = "zero_shot"  # a percentage is one of accuracy
                asked = _asked(results, args)[0]
                print_degradation(asked, args.task, item_scores_of(store), args.format)
                _print_what_was_counted(results, args)
            elif args.pareto:
                front = pareto_front(results, args.family, args.metric, args.axis, args.task)
                print_frame(front, args.format)
                if args.format == "table":
                    print("as measured: neighbours may differ by less than their errors (stderr)")
                _print_what_was_counted(results, args)
            else:
                _overview(results, item_scores_of(store), args)
            if args.format == "table":
                _print_left_out(results, args)
    except ValueError as error:
        raise InputError(str(error)) from None
    return 0


def _check_together(args: argparse.Namespace) -> None:
    if args.memory is None:
        belongs_to("--memory", {"--context": args.context, "--batch": args.batch})
    elif args.context is None:
        belongs_to("--context", {"--batch": args.batch})
    if args.memory is not None:  # it counts the whole model
        does_nothing_beside("--memory", {"--axis": args.axis})
    if args.degradation:  # every task by its own metric, against 16 bit of the same model
        does_nothing_beside("--degradation", {"--axis": args.axis, "--metric": args.metric})


def _answerable(store: Store, args: argparse.Namespace) -> tuple[str, pd.DataFrame]:
    """The metric asked for, else the first that experiments have, and its results. Raises
    InputError where there are none."""
    asked = [args.metric] if args.metric else ["zero_shot", "cross_entropy"]
    others = []  # measured, but not for what is asked: why is said where it is looked for
    for metric in asked:
        results = read_results(store, needed_rows(metric) | SPEED)
        answerable = metric, mark_screened(results, store)
        if _has(results, metric, args):
            return answerable
        others += [answerable] if len(metric_rows(results, metric)) else []
    if not others:
        advice = ", or see --metric" if args.metric else ""
        raise InputError(
            f"{store.url}: no {' and no '.join(asked)} results yet; run a sweep first{advice}"
        )
    return others[0]


def _has(results: pd.DataFrame, metric: str, args: argparse.Namespace) -> bool:
    """Whether what is asked for was measured by a metric."""
    if args.family is not None:
        results = results[results["family"] == args.family]
    try:
        return len(curve_points(results, metric, args.task)) > 0
    except ValueError:  # not on this task
        return False


def _asked(
    results: pd.DataFrame, args: argparse.Namespace
) -> tuple[pd.DataFrame, str, str, str | None]:
    if args.family is not None:
        check_family(results, args.family)
        results = results[results["family"] == args.family]
    return results, args.metric, args.axis, args.task


def _answer(results: pd.DataFrame, scores: ItemScores, args: argparse.Namespace) -> None:
    budget = parse_budget(args.budget)
    answers = optimal(
        results, budget, args.family, args.metric, args.axis, args.task, scores=scores
    )
    if args.format != "table":
        print_frame(pd.DataFrame([answer.as_row() for answer in answers]), args.format)
        return
    for answer in answers:
        print(answer_sentence(answer))
        if sure := certainty_sentence(answer):
            print(f"  {sure}")
    if any(answer.certainty for answer in answers):
        print(f"probability: {CALIBRATED}")
    print_formats(_asked(results, args), budget, scores)
    _print_what_was_counted(results, args)


def _reach(results: pd.DataFrame, args: argparse.Namespace) -> None:
    table = smallest_budget(results, args.reach, args.family, args.metric, args.axis, args.task)
    print_frame(table, args.format)
    if args.format == "table":
        _print_what_was_counted(results, args)


def _overview(results: pd.DataFrame, scores: ItemScores, args: argparse.Namespace) -> None:
    if args.family is not None:
        check_family(results, args.family)
        results = results[results["family"] == args.family]
    table = optimal_table(results, None, args.metric, args.axis, args.task, scores=scores)
    if args.format != "table":
        print_frame(table, args.format)
        return
    if table["determined"].any():
        shown = table[TABLE_COLUMNS].rename(columns={TABLE_COLUMNS[7]: "probability"})
        print_frame(shown, "table")
        print(f"probability: {CALIBRATED}\n" if shown["probability"].notna().any() else "")
    finding = find(results, args.metric, args.axis, args.task, scores)
    print(headline(finding))
    if finding.unknown < 1:  # there are leads, with errors
        print(f"leads: {LEADS}")
    _, claim = certain_shares(results, args.metric, args.axis, args.task, scores)
    if claim is not None:
        print(verdict_sentence(claim, name_metric(args.metric, finding.tasks)))
    print_shares(_asked(results, args), scores)
    costs = setting_costs(results, args.metric, args.task, scores, list(finding.undecided))
    if len(costs):
        print("\nwhat each setting costs the model, beside 16 bit:")
        print_frame(costs[COST_COLUMNS], "table")
    _print_what_was_counted(results, args)


def _print_left_out(results: pd.DataFrame, args: argparse.Namespace) -> None:
    for sentence in left_out_sentences(metric_rows(results, args.metric)):
        print(f"left out: {sentence}")


def _print_what_was_counted(results: pd.DataFrame, args: argparse.Namespace) -> None:
    """For people: what sizes are, and what the metric was taken on."""
    if args.format == "table":
        if args.family is not None:
            results = results[results["family"] == args.family]
        told = scored_on(results, args.metric, args.task)
        print(f"size counted: {args.axis} bits; metric: {args.metric}, {told}")
