"""What `kbit optimal` says of activations: formats at equal bits, percent degradation by task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.answers.contest import competitors
from analysis.answers.degradation import MEAN, degradations
from analysis.answers.formats import format_shares, formats_at
from analysis.claims.claim import between
from analysis.curves.budget import format_bits
from analysis.noise.bootstrap import ItemScores
from kbit.output import print_frame
from orchestrator.errors import InputError

Asked = tuple[pd.DataFrame, str, str, str | None]
"""Results, metric, axis and task, as the analysis takes them."""


_PERCENT = ("percent", "low", "high")


def _task(row: Mapping[str, Any]) -> str:
    """ "piqa -4.2 (-7.9 to -0.4)"."""
    interval = between(row["low"], row["high"], "+.1f")
    return f"{row['task']} {row['percent']:+.1f}" + (f" ({interval})" if interval else "")


def print_shares(asked: Asked, scores: ItemScores, form: str | None = None) -> None:
    """How often each format wins; without a `form`, for people and only where there is a choice.

    Raises InputError where there is none and it was asked for.
    """
    shares = format_shares(*asked, scores)
    if form is not None and shares.empty:
        raise InputError("no family has formats with and without activations at equal bits")
    if form is not None and form != "table":
        print_frame(shares, form)
    elif len(shares):
        print("\nweights alone, or activations too, at equal bits:")
        ends = zip(shares["low_bits"], shares["high_bits"], strict=True)
        shown = shares.assign(
            budgets=[f"{format_bits(low)} to {format_bits(high)}" for low, high in ends],
            **{name: shares[name].map("{:.0%}".format) for name in _OF_BUDGETS},
        )
        print_frame(shown[[*_SHOWN]].rename(columns=_SHOWN), "table")
        print(_HOW)


_OF_BUDGETS = ("share", "reached", "clearly_behind")
_SHOWN = {
    "family": "family",
    "budgets": "budgets",
    "format": "format",
    "share": "wins",
    "reached": "reaches",
    "behind": "mean distance to the best",
    "clearly_behind": "clearly behind the best",
    "recipe": "most often by",
    "usual": "that is",
}
_HOW = (
    "wins: share of the budgets (log-spaced; formats that tie share a budget); clearly behind: of "
    "those it reaches, at which the distance's 95% interval leaves out 0"
)


def print_formats(asked: Asked, budget: float, scores: ItemScores) -> None:
    """The best setting of each format at a budget, by family, where there is a choice."""
    for curves in competitors(*asked).values():
        if any(curve.setting.activation_format for curve in curves):
            table = formats_at(curves, [budget], scores)
            if len(table):
                print("\nweights alone, or activations too:")
                print_frame(table.drop(columns="budget_bits"), "table")


def print_degradation(
    results: pd.DataFrame, task: str | None, scores: ItemScores, form: str
) -> None:
    """By task for programs; for people the mean, the task that loses most, each with its interval,
    and why one is missing."""
    table = degradations(results, task, scores)
    if form != "table":
        print_frame(table, form)
        return
    key = ["family", "model", "setting"]
    tasks = table[(table["task"] != MEAN) & table["percent"].notna()]
    worst = tasks.loc[tasks.groupby(key)["percent"].idxmin()]
    worst = worst.assign(worst=[_task(row) for row in worst.to_dict("records")])
    means = table[table["task"] == MEAN].merge(worst[[*key, "worst"]], on=key, how="left")
    shown = means[["family", "model", "recipe", "setting", *_PERCENT, "paired", "worst"]]
    print_frame(shown, "table")
    print(
        "mean over tasks of 100 (after - before) / before (negative: worse), its 90% interval, "
        "the worst task with its own; every task: --format csv, or --task NAME"
    )
    missing = means.loc[means["reason"] != ""].groupby("reason", sort=False)["model"].unique()
    for reason, models in missing.items():
        print(f"no interval for {', '.join(models)}: {reason}")
