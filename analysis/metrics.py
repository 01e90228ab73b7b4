"""From stored metrics to the one number an experiment puts on a scaling curve.

Input everywhere is the flat `results` view: one row per experiment, task and metric. The frames
returned here have the same columns, so that every later step reads one shape.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from evaluation.task_sets import SIZE_WEIGHTED, TASK_SETS
from quantizers.setting import SETTING_COLUMNS

# fmt: off
COLUMNS = [
    "source", "experiment_id", "family", "model", "n_params",
    *SETTING_COLUMNS, "bits_per_param", "total_bits", "quantized_bits", "nominal_bits",
    "task", "metric", "value", "stderr", "n_items",
]
# fmt: on

METRICS = {"zero_shot": "larger", "cross_entropy": "smaller", "perplexity": "smaller"}
"""The metrics a scaling curve can be drawn of, and which direction is better."""


def needed_rows(metric: str) -> set[tuple[str | None, str]]:
    """The (task, metric) of `results` that curves of a metric are made from; task None is any."""
    if metric == "zero_shot":
        return {pair for tasks in TASK_SETS.values() for pair in tasks.items()}
    return {(None, "cross_entropy"), (None, metric)}


def larger_is_better(metric: str) -> bool:
    """Whether a larger value of a curve metric is better; ValueError for an unknown metric."""
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}: choose one of {', '.join(METRICS)}")
    return METRICS[metric] == "larger"


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
    results = _one_measurement_each(results)
    sets = [results.iloc[:0]]
    measured = set(results["task"])
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
        mean = wanted.iloc[first].assign(
            task=name,
            metric="zero_shot",
            value=np.bincount(experiment, weight * value, len(first)) / mass,  # NaN stays NaN
            stderr=np.sqrt(np.bincount(experiment, (weight * stderr) ** 2, len(first))) / mass,
            n_items=total.astype(np.int64),
        )
        sets.append(mean[complete][COLUMNS])
    return pd.concat(sets, ignore_index=True)


def _codes(ids: pd.Series) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """A number for each distinct id, by appearance, and the row where each first appears."""
    codes = pd.factorize(ids)[0]
    return codes, np.unique(codes, return_index=True)[1]


def curve_points(results: pd.DataFrame, metric: str, task: str | None = None) -> pd.DataFrame:
    """The points of all scaling curves: one row per experiment that has the metric.

    `metric` is one of METRICS. `task` names the corpus, or for "zero_shot" the task set; None
    takes, within each family, the one that most experiments were scored on (of equals the set that
    TASK_SETS names first, or by name).
    Raises ValueError for an unknown metric, a task that no experiment has, or missing columns.
    """
    larger_is_better(metric)
    results = sources_apart(results)
    if metric == "zero_shot":
        points = mean_zero_shot(results)
    else:
        points = _one_measurement_each(results)
        corpora = points.loc[points["metric"] == "cross_entropy", "task"].unique()
        points = points[(points["metric"] == metric) & points["task"].isin(corpora)]
    if task is not None:
        if points.empty or task not in set(points["task"]):
            known = ", ".join(sorted(set(points["task"]))) or "none"
            raise ValueError(f"no experiment has {metric} on {task!r}: results have {known}")
        return points[points["task"] == task].reset_index(drop=True)
    scored_on = points.groupby("family")["task"].agg(_usual_task)
    usual = points["task"] == points["family"].map(scored_on)
    return points[usual].reset_index(drop=True)


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


def _one_measurement_each(results: pd.DataFrame) -> pd.DataFrame:
    """`results` with one row per experiment, task and metric.

    Where a task was measured more than once (with another limit of items), the number of items
    that most of the family has is kept, so that curves compare like with like.
    """
    missing = [column for column in COLUMNS if column not in results]
    if missing:
        raise ValueError(f"results lack the column(s) {', '.join(missing)}")
    rows = results[COLUMNS]
    key = ["experiment_id", "task", "metric"]
    if not rows.duplicated(key).any():
        return rows
    like = ["family", "task", "metric", "n_items"]
    shared = rows.groupby(like, dropna=False)["experiment_id"].transform("nunique")
    order = rows.assign(_shared=shared).sort_values(["_shared", "n_items"], kind="stable")
    return order.drop_duplicates(key, keep="last").sort_index()[COLUMNS]
