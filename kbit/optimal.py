"""`kbit optimal`: which model size and precision is best for a memory budget, and the inverse."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import pandas as pd

from analysis.answers.costs import setting_costs
from analysis.answers.inverse import pareto_front, smallest_budget
from analysis.answers.latency import LATENCY
from analysis.answers.memory import Serving, cache_bits_per_token, choices_for_memory
from analysis.answers.optimal import check_family, optimal
from analysis.answers.serving import METRICS as SERVING
from analysis.answers.serving import serving_table
from analysis.answers.shares import optimal_table
from analysis.answers.universal import certain_shares
from analysis.curves.budget import format_bits, parse_budget
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
    answer_sentence,
    certainty_sentence,
    headline,
    verdict_sentence,
)
from analysis.noise.bootstrap import ItemScores
from kbit.database import add_db, open_store
from kbit.formats import print_degradation, print_formats, print_shares
from kbit.output import add_format, print_frame
from orchestrator.errors import InputError
from orchestrator.store.reading import (
    mark_screened,
    model_sources,
    read_item_scores,
    read_results,
    screened_axes,
)
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
MEMORY_ROWS = 15  # choices a person is shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    question = parser.add_mutually_exclusive_group()
    question.add_argument("--budget", help="memory for the weights: 300KiB, 4GiB, or bits")
    question.add_argument(
        "--reach",
        type=float,
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
    parser.add_argument("--context", type=int, default=0, help="with --memory: tokens to keep room")
    parser.add_argument("--batch", type=int, default=1, help="with --memory: sequences at a time")
    parser.add_argument("--family", help="only this family")
    parser.add_argument(
        "--metric",
        choices=tuple(METRICS),
        help="default: zero_shot, cross_entropy where no task was scored",
    )
    parser.add_argument(
        "--task", help="a task, task set or corpus (default: what most experiments were scored on)"
    )
    parser.add_argument(
        "--axis", choices=tuple(AXES), default="total", help="what counts as size (default: total)"
    )
    add_db(parser)
    add_format(parser)


def run(args: argparse.Namespace) -> int:
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
                _memory(results, store, args)
            elif args.formats:
                print_shares(_asked(results, args), item_scores_of(store), args.format)
            elif args.degradation:
                asked = _asked(results, args)[0]
                print_degradation(asked, args.task, item_scores_of(store), args.format)
            elif args.pareto:
                front = pareto_front(results, args.family, args.metric, args.axis, args.task)
                print_frame(front, args.format)
            else:
                _overview(results, item_scores_of(store), args)
            if args.format == "table":
                _print_left_out(results, args)
    except ValueError as error:
        raise InputError(str(error)) from None
    return 0


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


def screened_out(store: Store, axis: str) -> str:
    """What an adaptive sweep's screening leaves undetermined on an axis; "" where nothing is."""
    blind = {family: axes for family, axes in screened_axes(store).items() if axis not in axes}
    if not blind:
        return ""
    asked = " and ".join(sorted(set.union(*blind.values()) - {""})) or "no"
    return (
        f"{', '.join(blind)}: undetermined on this axis: experiments were dropped by screening, "
        f"which asked about {asked} bits"
    )


def item_scores_of(store: Store) -> ItemScores:
    """The stored per-item scores, as the bootstrap asks for them."""
    return partial(read_item_scores, store)


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
    _print_what_was_counted(args)


def _reach(results: pd.DataFrame, args: argparse.Namespace) -> None:
    table = smallest_budget(results, args.reach, args.family, args.metric, args.axis, args.task)
    print_frame(table, args.format)
    if args.format == "table":
        _print_what_was_counted(args)


def _memory(results: pd.DataFrame, store: Store, args: argparse.Namespace) -> None:
    if args.axis != "total":
        raise InputError("--memory counts the whole model: leave out --axis")
    cache = {
        model: _cache_bits(folder)
        for model, folder in (model_sources(store).items() if args.context else ())
    }
    budget = parse_budget(args.memory)
    table = choices_for_memory(
        results,
        budget,
        cache,
        Serving(args.context, args.batch),
        args.family,
        args.metric,
        args.task,
    )
    if args.format != "table":
        print_frame(table, args.format)
        return
    sizes = {c: [format_bits(bits) for bits in table[c]] for c in ("weights", "cache", "needed")}
    shown = table.assign(**sizes).drop(columns=["bits", "data_type", "block_size"])
    if len(shown):
        print_frame(shown.groupby("task").head(MEMORY_ROWS).dropna(axis=1, how="all"), "table")
    unknown = sorted(model for model in cache if cache[model] is None)
    served = serving_table(results)
    if len(served):
        print("\nwhat serving them costs, as measured (kbit bench latency --shapes):")
        print_frame(served.dropna(axis=1, how="all"), "table")
    if unknown:
        print(f"left out, no config.json here that sizes the context: {', '.join(unknown)}")
    print(
        f"{len(table)} experiments fit in {format_bits(budget)} with {args.context} tokens x "
        f"{args.batch}; activations and the runtime's own memory are not counted"
    )


def _cache_bits(source: str) -> int | None:
    """Bits of context memory a token, from a local model directory's config.json."""
    try:
        config = json.loads((Path(source) / "config.json").read_text())
        return cache_bits_per_token(config) if isinstance(config, dict) else None
    except (OSError, ValueError, TypeError):  # not there, not JSON, or not numbers
        return None


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
    _, claim = certain_shares(results, args.metric, args.axis, args.task, scores)
    if claim is not None:
        print(verdict_sentence(claim, name_metric(args.metric, finding.tasks)))
    print_shares(_asked(results, args), scores)
    costs = setting_costs(results, args.metric, args.task, scores, list(finding.undecided))
    if len(costs):
        print("\nwhat each setting costs the model, beside 16 bit:")
        print_frame(costs[COST_COLUMNS], "table")
    _print_what_was_counted(args)


def _print_left_out(results: pd.DataFrame, args: argparse.Namespace) -> None:
    for sentence in left_out_sentences(metric_rows(results, args.metric)):
        print(f"left out: {sentence}")


def _print_what_was_counted(args: argparse.Namespace) -> None:
    print(f"size counted: {args.axis} bits; metric: {args.metric}")
