"""From stored metrics to the one number an experiment puts on a scaling curve.

Input everywhere is the flat `results` view: one row per experiment, task and metric. The frames
returned here have the same columns, so that every later step reads one shape.
"""

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.curves.metrics import (
    ACCURACIES,
    JOINED,
    SHARES,
    Part,
    accuracy_of,
    tasks_in,
)
from analysis.curves.protocols import one_protocol
from analysis.curves.remembering import once
from analysis.curves.rows import metric_rows, one_measurement_each
from evaluation.tasks.sets import SIZE_WEIGHTED, TASK_SETS


def curve_points(results: pd.DataFrame, metric: str, task: str | None = None) -> pd.DataFrame:
    """The points of all scaling curves: one row per experiment that has the metric.

    `metric` is one of METRICS. `task` names the corpus, or for "zero_shot" a task set or a task;
    None takes, within each family, the one that most experiments were scored on (of equals the set
    that TASK_SETS names first, or by name), and where no set is complete the mean over the tasks
    that all its experiments share. All points of a family and task are of one protocol. The column
    `parts` says what each value is made of, as a tuple of Part.
    Raises ValueError for an unknown metric, a task that no experiment has, or missing columns.
    """
    return once(_curve_points, results, metric, task)


def _curve_points(results: pd.DataFrame, metric: str, task: str | None) -> pd.DataFrame:
    kept = comparable_rows(results, metric)
    points = _accuracies(kept, task) if metric == "zero_shot" else kept
    if task is not None:
        if points.empty or task not in set(points["task"].unique()):
            singles = set(kept["task"]) if metric == "zero_shot" else set()
            known = ", ".join(sorted(set(points["task"]) | singles)) or "none"
            raise ValueError(f"no experiment has {metric} on {task!r}: results have {known}")
        points = points[points["task"] == task]
    else:
        points = points[points["task"] == points["family"].map(_usual_tasks(points))]
    return _with_parts(points.reset_index(drop=True), kept, metric)


def comparable_rows(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows that a curve metric is made from, of one protocol each family and task, each thing
    measured once. Raises ValueError as curve_points does."""
    return once(_comparable_rows, results, metric)


def _comparable_rows(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    rows = one_measurement_each(one_protocol(metric_rows(results, metric))[0])
    # The spread of one item is not known, whatever error a table states; that of a share is.
    alone = (rows["n_items"] == 1).fillna(False).to_numpy(dtype=bool) & ~rows["metric"].isin(SHARES)
    return rows.assign(stderr=rows["stderr"].mask(alone))


def degrees_of_freedom(points: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Of the stored errors of curve_points: items less one; inf for shares of right items, whose
    error is a function of the share, and where the number of items is not known."""
    n = points["n_items"].to_numpy(dtype=np.float64, na_value=np.nan)
    of_shares = [all(part.metric in SHARES for part in parts) for parts in points["parts"]]
    return np.where(np.array(of_shares, dtype=bool) | ~(n > 1), np.inf, n - 1)


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
        metric = _metric_of(set(part["metric"].unique()), str(task))
        if part.loc[part["metric"] == metric, "experiment_id"].nunique() == experiments:
            shared[str(task)] = metric
    return shared


def _one_task(rows: pd.DataFrame, task: str) -> pd.DataFrame:
    same = rows[rows["task"] == task]
    usual = _metric_of(set(same["metric"].unique()), task)
    return same[same["metric"] == usual].assign(metric="zero_shot")


def _metric_of(there: Collection[str], task: str) -> str:
    """The metric that stands for a task's accuracy, of those that it has."""
    usual = accuracy_of(task)
    return usual if usual in there else next((name for name in ACCURACIES if name in there), usual)


def _with_parts(points: pd.DataFrame, rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    groups = points.groupby(["family", "task"], sort=False)
    columns = ["family", "task", "metric", *(["protocol"] if "protocol" in rows else [])]
    metrics: dict[str, dict[str, set[str]]] = {}  # of a family and task
    protocols: dict[tuple[str, str], str] = {}
    for family, task, its, *protocol in rows[columns].drop_duplicates().itertuples(index=False):
        metrics.setdefault(family, {}).setdefault(task, set()).add(its)
        if protocol and not pd.isna(protocol[0]):
            protocols[family, task] = protocol[0]
    parts = np.empty(groups.ngroups, dtype=object)
    for i, (family, task) in enumerate(groups.groups):
        if metric != "zero_shot":  # the items of a perplexity are those of its cross-entropy
            made = {task: "cross_entropy"}
        elif task in TASK_SETS:
            made = tasks_in(task)
        else:
            there = metrics[family]
            names = [task] if task in there else tasks_in(task)
            made = {name: _metric_of(there[name], name) for name in names}
        parts[i] = tuple(
            Part(name, its, protocols.get((family, name))) for name, its in made.items()
        )
    return points.assign(parts=parts[groups.ngroup().to_numpy()])


def _codes(ids: pd.Series) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """A number for each distinct id, by appearance, and the row where each first appears."""
    codes = pd.factorize(ids)[0]
    return codes, np.unique(codes, return_index=True)[1]


def _usual_tasks(points: pd.DataFrame) -> dict[str, str]:
    """Family -> the task that most of its points are of, of equals as curve_points says."""
    sets = list(TASK_SETS)
    count = points.groupby(["family", "task"]).size()
    usual: dict[str, tuple[int, int, str]] = {}
    for (family, task), n in count.items():
        rank = (-n, sets.index(task) if task in sets else 0, task)
        usual[family] = min(usual.get(family, rank), rank)
    return {family: task for family, (_, _, task) in usual.items()}
