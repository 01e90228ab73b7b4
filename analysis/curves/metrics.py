"""The metrics that scaling curves are drawn of, and the tasks and items they are made from."""

from typing import NamedTuple

import numpy as np

from evaluation.tasks.sets import CHANCE, TASK_SETS
from quantizers.setting import SETTING_COLUMNS

# fmt: off
COLUMNS = [
    "source", "experiment_id", "family", "model", "n_params",
    *SETTING_COLUMNS, "bits_per_param", "total_bits", "quantized_bits", "nominal_bits",
    "task", "metric", "value", "stderr", "n_items",
]
# fmt: on
"""What every frame of results has."""
PROTOCOL_COLUMNS = ["protocol", "context", "limit", "max_tokens"]
"""What a frame may say of how its rows were measured; without them one protocol is assumed."""

SCREENED = "screened_axes"
"""What a frame may say of a family of which an adaptive sweep dropped experiments: the axes of size
on which they cannot win, as "total,nominal"."""

RUN_COLUMNS = ["run", "variant", "seed", "step"]
"""What a frame may say of how its models were trained, by a study of training."""

METRICS = {"zero_shot": "larger", "cross_entropy": "smaller", "perplexity": "smaller"}
"""The metrics a scaling curve can be drawn of, and which direction is better."""

SHARES = ("acc", "acc_norm", "exact_match")
"""Metrics of a task that are the share of right answers, in order of preference."""
ACCURACIES = (*SHARES, "byte_likelihood")
"""Metrics that "zero_shot" can be made of."""
PERPLEXITY_CAP = 100.0  # as appendix C.5 plots it: above, a model is random anyway
JOINED = " + "  # between the tasks of a mean that has no name of its own


class Part(NamedTuple):
    """What a value is made of: one metric of a task, under one protocol (None: not known)."""

    task: str
    metric: str
    protocol: str | None = None


def needed_rows(metric: str) -> set[tuple[str | None, str]]:
    """The (task, metric) of `results` that curves of a metric are made from; task None is any."""
    names = ACCURACIES if metric == "zero_shot" else ("cross_entropy", "perplexity")
    return {(None, name) for name in names}


def larger_is_better(metric: str) -> bool:
    """Whether a larger value of a curve metric is better; ValueError for an unknown metric."""
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}: choose one of {', '.join(METRICS)}")
    return METRICS[metric] == "larger"


def tasks_in(name: str) -> dict[str, str]:
    """Task -> metric of an accuracy by its name: a task set, tasks joined by " + ", one task."""
    return TASK_SETS.get(name) or {task: accuracy_of(task) for task in name.split(JOINED)}


def accuracy_of(task: str) -> str:
    """The metric of a task that stands for its accuracy: as in the first set that has the task."""
    return next((tasks[task] for tasks in TASK_SETS.values() if task in tasks), SHARES[0])


def chance_level(name: str) -> float:
    """What guessing scores on a task set or task, a fraction; NaN where that is not known."""
    levels = [CHANCE.get(task, np.nan) for task in tasks_in(name)]
    return float(np.mean(levels))
