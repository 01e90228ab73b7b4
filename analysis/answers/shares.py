"""The bit-optimal setting over whole ranges of budgets: a table, and how often each one wins."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.answers.contest import Contest, competitors, contests
from analysis.answers.optimal import answers_at, check_family
from analysis.noise.bootstrap import ItemScores, no_item_scores

EVERY_FAMILY = "all families"
"""The mean over families: each counts alike, whatever the range its precisions meet over."""


def optimal_table(
    results: pd.DataFrame,
    family: str | None = None,
    metric: str = "zero_shot",
    axis: str = "total",
    task: str | None = None,
    budgets: Sequence[float] | None = None,
    scores: ItemScores | None = None,
) -> pd.DataFrame:
    """The bit-optimal setting per family and budget, one Optimum.as_row() a row.

    `budgets` in bits; None spreads about a dozen round ones evenly in log(bits) over each
    family's whole range, so that the undetermined ends show too. `scores` as in optimal. Raises
    ValueError for an unknown family, metric, axis or task.
    """
    if family is not None:
        check_family(results, family)
        results = results[results["family"] == family]
    rows = []
    for curves in competitors(results, metric, axis, task).values():
        sizes = np.concatenate([curve.bits for curve in curves])
        grid = round_budgets(sizes.min(), sizes.max(), 12) if budgets is None else budgets
        rows += [answer.as_row() for answer in answers_at(curves, grid, scores)]
    return pd.DataFrame(rows)


def round_budgets(low: float, high: float, n: int) -> list[float]:
    """At most `n` budgets between `low` and `high` (bits), two significant digits of KiB or so."""
    grid = []
    for bits in np.geomspace(low, high, n):
        unit = 8.0 * 1024 ** max(0, int(np.log(bits / 8) / np.log(1024)))
        digits = 1 - int(np.floor(np.log10(bits / unit)))
        grid.append(round(bits / unit, digits) * unit)
    return sorted({bits for bits in grid if low <= bits <= high}) or [low]


SHARES = ("share", "clear_share", "complete_share", "complete_clear_share")


def winners(
    results: pd.DataFrame,
    metric: str = "zero_shot",
    axis: str = "total",
    task: str | None = None,
    scores: ItemScores = no_item_scores,
) -> pd.DataFrame:
    """The winner at each budget of each family's contest, where there is one.

    Columns: family, budget_bits, bits, setting (label), clear (the lead's 95 % interval leaves
    out 0), complete (every setting of the family has a value there: near the ends of the range the
    winner may owe its place to rivals that do not reach).
    """
    tables = [_winners(won) for won in contests(results, metric, axis, task, scores).values()]
    columns = ["family", "budget_bits", "bits", "setting", "clear", "complete"]
    tables = [table for table in tables if len(table)]
    return (
        pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)
    )


def _winners(contest: Contest) -> pd.DataFrame:
    at = contest.decided
    settings = [contest.panel.curves[i].setting for i in contest.winner[at]]
    return pd.DataFrame(
        {
            "family": contest.family,
            "budget_bits": contest.budgets[at],
            "bits": [setting.bits for setting in settings],
            "setting": [setting.label for setting in settings],
            "clear": contest.clear[at],
            "complete": contest.complete[at],
        }
    )


def win_shares(
    results: pd.DataFrame,
    metric: str = "zero_shot",
    axis: str = "total",
    task: str | None = None,
    scores: ItemScores = no_item_scores,
    by: str = "setting",
) -> pd.DataFrame:
    """How often each setting (or `by="bits"`: each precision) is bit-optimal.

    The share of the budgets of a family's contest that have a winner. Columns: family, bits,
    setting (only by setting), share, clear_share (won by a clear lead), complete_share and
    complete_clear_share (the same among the budgets that every curve of the family reaches; NaN if
    there are none), completeness (which part of all they are), low_bits and high_bits (the budgets
    looked at), n_budgets. The rows of EVERY_FAMILY are means over families. Best share first. Empty
    where nothing is decided.
    """
    table = winners(results, metric, axis, task, scores)
    table["weight"] = 1.0 / table.groupby("family")["family"].transform("size")
    parts = [(str(family), part) for family, part in table.groupby("family", sort=False)]
    if parts:
        parts.append((EVERY_FAMILY, table))
    keys = ["bits", "setting"] if by == "setting" else ["bits"]
    shares = [_shares(part, keys).assign(family=family) for family, part in parts]
    columns = ["family", *keys, *SHARES, "completeness", "low_bits", "high_bits", "n_budgets"]
    return (
        pd.concat(shares, ignore_index=True)[columns] if shares else pd.DataFrame(columns=columns)
    )


def _shares(part: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    complete = part["weight"].where(part["complete"], 0.0)
    won = part.assign(
        share=part["weight"] / part["weight"].sum(),
        clear_share=part["weight"].where(part["clear"], 0.0) / part["weight"].sum(),
        complete_share=complete / (complete.sum() or np.nan),
        complete_clear_share=complete.where(part["clear"], 0.0) / (complete.sum() or np.nan),
    )
    shares = won.groupby(keys)[list(SHARES)].sum(min_count=1)
    shares["completeness"] = complete.sum() / part["weight"].sum()
    shares["low_bits"] = part["budget_bits"].min()
    shares["high_bits"] = part["budget_bits"].max()
    shares["n_budgets"] = len(part)
    return shares.sort_values("share", ascending=False, kind="stable").reset_index()
