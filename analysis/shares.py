"""The bit-optimal setting over whole ranges of budgets: a table, and how often each one wins."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.answer import SURE
from analysis.bootstrap import ItemScores
from analysis.curves import Curve
from analysis.metrics import larger_is_better
from analysis.optimal import answers_at, check_family, competitors, overlap_range, read_curves

EVERY_FAMILY = "all families"


def optimal_table(
    results: pd.DataFrame,
    family: str | None = None,
    metric: str = "zero_shot",
    axis: str = "total",
    task: str | None = None,
    budgets: Sequence[float] | None = None,
    n_budgets: int = 12,
    scores: ItemScores | None = None,
) -> pd.DataFrame:
    """The bit-optimal setting per family and budget, one Optimum.as_row() a row.

    `budgets` in bits; None spreads about `n_budgets` round ones evenly in log(bits) over each
    family's whole range, so that the undetermined ends show too. `scores` as in optimal. Raises
    ValueError for an unknown family, metric, axis or task.
    """
    rows = []
    for curves in _fields(results, family, metric, axis, task).values():
        sizes = np.concatenate([curve.bits for curve in curves])
        grid = round_budgets(sizes.min(), sizes.max(), n_budgets) if budgets is None else budgets
        rows += [answer.as_row() for answer in answers_at(curves, grid, scores)]
    return pd.DataFrame(rows)


def _fields(
    results: pd.DataFrame, family: str | None, metric: str, axis: str, task: str | None
) -> dict[str, list[Curve]]:
    if family is not None:
        check_family(results, family)
        results = results[results["family"] == family]
    return competitors(results, metric, axis, task)


def round_budgets(low: float, high: float, n: int) -> list[float]:
    """At most `n` budgets between `low` and `high` (bits), two significant digits of KiB or so."""
    grid = []
    for bits in np.geomspace(low, high, n):
        unit = 8.0 * 1024 ** max(0, int(np.log(bits / 8) / np.log(1024)))
        digits = 1 - int(np.floor(np.log10(bits / unit)))
        grid.append(round(bits / unit, digits) * unit)
    return sorted({bits for bits in grid if low <= bits <= high})


def winners(
    results: pd.DataFrame,
    metric: str = "zero_shot",
    axis: str = "total",
    task: str | None = None,
    n_budgets: int = 200,
) -> pd.DataFrame:
    """The winner at `n_budgets` budgets evenly spaced in log(bits), where curves overlap.

    Columns: family, budget_bits, bits, setting (label), significant (lead above two standard
    errors), complete (every setting of the family has a value there: near the ends of the range
    the winner may owe its place to rivals that do not reach). Budgets inside the range at which
    fewer than two curves have a value (beside a diverged model) are left out.
    """
    frames = []
    for family, curves in competitors(results, metric, axis, task).items():
        span = overlap_range(curves)
        if span is not None:
            frames.append(_winners(curves, np.geomspace(*span, n_budgets)).assign(family=family))
    columns = ["family", "budget_bits", "bits", "setting", "significant", "complete"]
    return (
        pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)
    )


def _winners(curves: Sequence[Curve], budgets: np.ndarray) -> pd.DataFrame:
    value, stderr = read_curves(curves, budgets)
    better = 1.0 if larger_is_better(curves[0].metric) else -1.0
    score = np.where(np.isfinite(value), better * value, -np.inf)
    ranked = np.argsort(-score, axis=0, kind="stable")
    column = np.arange(len(budgets))
    first, second = ranked[0], ranked[1]
    contested = np.isfinite(score[second, column])
    score[~np.isfinite(score)] = 0.0  # only at budgets that `contested` drops
    lead = score[first, column] - score[second, column]
    error = np.hypot(stderr[first, column], stderr[second, column])
    table = {
        "budget_bits": budgets,
        "bits": [curves[i].setting.bits for i in first],
        "setting": [curves[i].setting.label for i in first],
        "significant": lead > SURE * error,  # False where the error is unknown
        "complete": np.isfinite(value).all(axis=0),
    }
    return pd.DataFrame(table)[contested]


def win_shares(
    results: pd.DataFrame,
    metric: str = "zero_shot",
    axis: str = "total",
    task: str | None = None,
    n_budgets: int = 200,
    by: str = "setting",
) -> pd.DataFrame:
    """How often each setting (or `by="bits"`: each precision) is bit-optimal.

    The share of log-spaced budgets at which at least two curves overlap. Columns: family, bits,
    setting (only by setting), share, significant_share (won by more than two standard errors),
    complete_share (share among the budgets that every curve of the family reaches; NaN if there
    are none), low_bits and high_bits (the budgets looked at), n_budgets. The rows of EVERY_FAMILY
    pool the families with equal weight. Best share first.
    """
    table = winners(results, metric, axis, task, n_budgets)
    # Equal weight to families: a family's gaps beside diverged models do not shrink its say.
    table["weight"] = 1.0 / table.groupby("family")["family"].transform("size")
    parts = [(str(family), part) for family, part in table.groupby("family", sort=False)]
    if parts:
        parts.append((EVERY_FAMILY, table))
    keys = ["bits", "setting"] if by == "setting" else ["bits"]
    shares = [_shares(part, keys).assign(family=family) for family, part in parts]
    columns = ["family", *keys, "share", "significant_share", "complete_share"]
    columns += ["low_bits", "high_bits", "n_budgets"]
    return (
        pd.concat(shares, ignore_index=True)[columns] if shares else pd.DataFrame(columns=columns)
    )


def _shares(part: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    complete = part["weight"].where(part["complete"], 0.0)
    won = part.assign(
        share=part["weight"] / part["weight"].sum(),
        significant_share=part["weight"].where(part["significant"], 0.0) / part["weight"].sum(),
        complete_share=complete / (complete.sum() or np.nan),
    )
    shares = won.groupby(keys)[["share", "significant_share"]].sum()
    shares["complete_share"] = won.groupby(keys)["complete_share"].sum(min_count=1)
    shares["low_bits"] = part["budget_bits"].min()
    shares["high_bits"] = part["budget_bits"].max()
    shares["n_budgets"] = len(part)
    return shares.sort_values("share", ascending=False, kind="stable").reset_index()
