"""The stored rows that a curve metric is made from: one a measurement, with what is known of its
error, numbers of several sources apart.
"""

import numpy as np
import pandas as pd

from analysis.curves.metrics import ACCURACIES, COLUMNS, SHARES, larger_is_better
from evaluation.tasks.sets import CHANCE


def metric_rows(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows of `results` that a curve metric is made from, of any protocol, with their errors.

    Raises ValueError for an unknown metric and missing columns.
    """
    larger_is_better(metric)
    if missing := [column for column in COLUMNS if column not in results]:
        raise ValueError(f"results lack the column(s) {', '.join(missing)}")
    results = sources_apart(results)
    if metric == "zero_shot":
        rows = results[results["metric"].isin(ACCURACIES)]
    else:
        rows = _losses(results, metric)
    return with_errors(rows)


def with_errors(rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` in which a standard error is positive, or NaN: not known. It is never 0.

    Where a share of `n_items` came without one (or with 0: all items right, or none), it is the
    binomial one of (right + 1) / (n + 2), which stays above 0.
    """
    error = rows["stderr"].to_numpy(dtype=np.float64)
    unknown = ~(error > 0)
    if not unknown.any():
        return rows
    n = rows["n_items"].to_numpy(dtype=np.float64, na_value=np.nan)
    counted = unknown & rows["metric"].isin(SHARES).to_numpy() & (n > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (rows["value"].to_numpy(dtype=np.float64) * n + 1) / (n + 2)
        binomial = np.sqrt(share * (1 - share) / n)
    filled = np.where(counted, binomial, np.where(unknown, np.nan, error))
    return rows.assign(stderr=filled)


def _losses(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Cross-entropies or perplexities on corpora, each made from the other where it is missing.

    A perplexity that a task reports beside its accuracy (LAMBADA's last word) is of no corpus.
    """
    rows = results[results["metric"].isin(["cross_entropy", "perplexity"])]
    measured = set(results.loc[results["metric"] == "cross_entropy", "task"].unique())
    tasks = set(results.loc[results["metric"].isin(ACCURACIES), "task"].unique()) | set(CHANCE)
    rows = rows[rows["task"].isin(measured | (set(rows["task"].unique()) - tasks))]
    given, other = rows[rows["metric"] == metric], rows[rows["metric"] != metric]
    key = ["experiment_id", "task", *(["protocol"] if "protocol" in rows else [])]
    if len(given):
        has = pd.MultiIndex.from_frame(given[key])
        other = other[~pd.MultiIndex.from_frame(other[key]).isin(has)]
    if other.empty:
        return given
    value, error = (other[column].to_numpy(dtype=np.float64) for column in ("value", "stderr"))
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        if metric == "cross_entropy":
            made = other.assign(metric=metric, value=np.log(value), stderr=error / value)
        else:
            made = other.assign(metric=metric, value=np.exp(value), stderr=error * np.exp(value))
    return pd.concat([given, made]) if len(given) else made


def sources_apart(results: pd.DataFrame) -> pd.DataFrame:
    """`results` in which a family that comes from several sources is a family of each.

    Numbers measured elsewhere, with other protocols, must not be joined into one curve. Our own
    ("kbit") keep the family's name, the others add their source in brackets.
    """
    if "source" not in results or "family" not in results:
        return results
    if not (results.groupby("family")["source"].nunique() > 1).any():
        return results
    several = results.groupby("family")["source"].transform("nunique") > 1
    foreign = several & (results["source"] != "kbit")
    named = results["family"].astype(str) + " [" + results["source"].astype(str) + "]"
    return results.assign(family=results["family"].where(~foreign, named))


def one_measurement_each(rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` with one row per experiment, task and metric.

    Where a task was measured more than once and no protocol tells how, the number of items that
    most of the family has is kept, so that curves compare like with like.
    """
    key = ["experiment_id", "task", "metric"]
    if not rows.duplicated(key).any():
        return rows
    like = ["family", "task", "metric", "n_items"]
    shared = rows.groupby(like, dropna=False)["experiment_id"].transform("nunique")
    order = rows.assign(_shared=shared).sort_values(["_shared", "n_items"], kind="stable")
    return order.drop_duplicates(key, keep="last").sort_index().drop(columns="_shared")
