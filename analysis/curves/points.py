"""From stored metrics to the one number an experiment puts on a scaling curve.

Input everywhere is the flat `results` view: one row per experiment, task and metric. The frames
returned here have the same columns, so that every later step reads one shape.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.curves.metrics import (
    ACCURACIES,
    COLUMNS,
    JOINED,
    SHARES,
    Part,
    accuracy_of,
    larger_is_better,
    tasks_in,
)
from analysis.curves.protocols import one_protocol
from analysis.curves.remembering import once
from evaluation.tasks.sets import CHANCE, SIZE_WEIGHTED, TASK_SETS


def curve_points(results: pd.DataFrame, metric: str, task: str | None = None) -> pd.DataFrame:
    """The points of all scaling curves: one row per experiment that has the metric.

    `metric` is one of METRICS. `task` names the corpus, or for "zero_shot" a task set or a task;
    None takes, within each family, the one that most experiments were scored on (of equals the set
    that TASK_SETS names first, or by name), and where no set is complete the mean over the tasks
    that all its experiments share. All points of a family and task are of one protocol. The column
    `parts` says what each value is made of, as a tuple of Part.
    Raises ValueError for an unknown metric, a task that no experiment has, or missing columns.
    """
    kept = once(_comparable, results, metric)
    points = _accuracies(kept, task) if metric == "zero_shot" else kept
    if task is not None:
        if points.empty or task not in set(points["task"].unique()):
            singles = set(kept["task"]) if metric == "zero_shot" else set()
            known = ", ".join(sorted(set(points["task"]) | singles)) or "none"
            raise ValueError(f"no experiment has {metric} on {task!r}: results have {known}")
        points = points[points["task"] == task]
    else:
        scored_on = points.groupby("family")["task"].agg(_usual_task)
        points = points[points["task"] == points["family"].map(scored_on)]
    return _with_parts(points.reset_index(drop=True), kept, metric)


def _comparable(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    return one_measurement_each(one_protocol(metric_rows(results, metric))[0])


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


def mean_zero_shot(
    results: pd.DataFrame, task_sets: Mapping[str, Mapping[str, str]] = TASK_SETS
) -> pd.DataFrame:
    """Mean zero-shot accuracy (paper section 4): one row per experiment and complete task set.

    `task_sets` maps a set's name to {task: metric}; the mean is over tasks, over items for the sets
    in SIZE_WEIGHTED (MMLU, as the harness groups it). An experiment that lacks a task of a set gets
    no row for it: a mean over fewer tasks is another quantity. In the result `task` is the set's
    name, `metric` is "zero_shot", `stderr` the root of the sum of weighted squares (tasks hold
    different items, so their errors are independent) and `n_items` counts all items.
    """
    results = one_measurement_each(results)
    sets = [results.iloc[:0]]
    measured = set(results["task"].unique())
    for name, tasks in task_sets.items():
        if not tasks.keys() <= measured:
            continue
        wanted = results[results["metric"] == results["task"].map(tasks)]
        experiment, first = _codes(wanted["experiment_id"])
        # A task stands once in an experiment: counting rows counts tasks.
        complete = np.bincount(experiment, minlength=len(first)) == len(tasks)
        items, value, stderr = (
            wanted[column].to_numpy(dtype=np.float64) for column in ("n_items", "value", "stderr")
        )
        weight = items if name in SIZE_WEIGHTED else np.ones(len(items))
        mass, total = (np.bincount(experiment, w, len(first)) for w in (weight, items))
        with np.errstate(invalid="ignore"):  # no item counted: no weight, so no mean
            mean = wanted.iloc[first].assign(
                task=name,
                metric="zero_shot",
                value=np.bincount(experiment, weight * value, len(first)) / mass,  # NaN stays NaN
                stderr=np.sqrt(np.bincount(experiment, (weight * stderr) ** 2, len(first))) / mass,
                n_items=total.astype(np.int64),
            )
        sets.append(mean[complete])
    return pd.concat(sets, ignore_index=True)


def _accuracies(rows: pd.DataFrame, task: str | None) -> pd.DataFrame:
    """Mean accuracies of complete sets, of the task asked for, and of tasks without a set."""
    means = mean_zero_shot(rows)
    joined = task is not None and JOINED in task and task not in set(rows["task"])
    if task is not None and task not in TASK_SETS and not joined:
        return pd.concat([means, _one_task(rows, task)], ignore_index=True)
    parts = [means]
    for family, part in rows.groupby("family", sort=False):
        if not (means["family"] == family).any():
            shared = _shared_tasks(part)
            if len(shared) == 1:
                parts.append(_one_task(part, *shared))
            elif shared:
                parts.append(mean_zero_shot(part, {JOINED.join(shared): shared}))
    return pd.concat(parts, ignore_index=True)


def _shared_tasks(rows: pd.DataFrame) -> dict[str, str]:
    """The tasks that all experiments of `rows` were scored on, each with its metric."""
    experiments = rows["experiment_id"].nunique()
    shared = {}
    for task, part in rows.groupby("task", sort=True):
        metric = _metric_of(part, str(task))
        if part.loc[part["metric"] == metric, "experiment_id"].nunique() == experiments:
            shared[str(task)] = metric
    return shared


def _one_task(rows: pd.DataFrame, task: str) -> pd.DataFrame:
    same = rows[rows["task"] == task]
    return same[same["metric"] == _metric_of(same, task)].assign(metric="zero_shot")


def _metric_of(rows: pd.DataFrame, task: str) -> str:
    """The metric that stands for a task's accuracy, of those that its `rows` have."""
    there = set(rows["metric"].unique())
    usual = accuracy_of(task)
    return usual if usual in there else next((name for name in ACCURACIES if name in there), usual)


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


def _with_parts(points: pd.DataFrame, rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    groups = points.groupby(["family", "task"], sort=False)
    columns = ["family", "task", "metric", *(["protocol"] if "protocol" in rows else [])]
    measured = rows[columns].drop_duplicates()
    parts = np.empty(groups.ngroups, dtype=object)
    for i, (family, task) in enumerate(groups.groups):
        same = measured[measured["family"] == family]
        if metric != "zero_shot":  # the items of a perplexity are those of its cross-entropy
            made = {task: "cross_entropy"}
        elif task in TASK_SETS:
            made = tasks_in(task)
        else:
            names = [task] if task in set(same["task"]) else tasks_in(task)
            made = {name: _metric_of(same[same["task"] == name], name) for name in names}
        known = same.dropna(subset="protocol") if "protocol" in same else same.iloc[:0]
        protocols = dict(zip(known["task"], known.get("protocol", []), strict=True))
        parts[i] = tuple(Part(name, its, protocols.get(name)) for name, its in made.items())
    return points.assign(parts=parts[groups.ngroup().to_numpy()])


def _codes(ids: pd.Series) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """A number for each distinct id, by appearance, and the row where each first appears."""
    codes = pd.factorize(ids)[0]
    return codes, np.unique(codes, return_index=True)[1]


def _usual_task(tasks: pd.Series) -> str:
    sets = list(TASK_SETS)
    return min(tasks.mode(), key=lambda task: (sets.index(task) if task in sets else 0, task))


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
