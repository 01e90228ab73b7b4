"""Zero-shot accuracy: lm-evaluation-harness's tasks, prompts and metrics on a resident model."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task

from evaluation.language_model import LanguageModel
from evaluation.local_tasks import build_task
from evaluation.measurement import Measurement, Metric
from evaluation.protocols import task_protocol
from evaluation.standard_error import item_scores, standard_error
from evaluation.task_requests import aggregation_of, task_requests

FEWSHOT_SEED = 1234  # the harness's own default


@dataclass(frozen=True)
class LoadedTask:
    """A task, its requests, and for each item its document and its slice of the requests."""

    task: Task
    requests: list[Instance]
    items: list[tuple[Any, slice]]


def evaluate_zero_shot(
    lm: LanguageModel,
    tasks: Sequence[str],
    limit: int | None = None,
    data_files: Mapping[str, str] = MappingProxyType({}),
) -> list[Measurement]:
    """Score the first `limit` items (None: all) of each task, one measurement a task.

    Every metric of the task is returned, with its score of each item where it is a number. Means
    have the standard error of the mean; a perplexity that of its exponent (delta method). With a
    diverged model (nan) the first choice counts as chosen. Each task is batched by itself, so its
    scores do not depend on the others. `data_files` points tasks at local copies of their data (see
    `local_tasks`). Raises ValueError for unknown tasks, generation tasks, and data that cannot be
    loaded.
    """
    return [_evaluate_task(lm, name, limit, data_files.get(name)) for name in tasks]


@lru_cache(maxsize=32)
def load_task(
    name: str, limit: int | None = None, data_files: str | None = None, data: str | None = None
) -> LoadedTask:
    """A task with its data and requests, built once a process for a version `data` of local files.
    Raises ValueError as above."""
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars that nothing else turns off
        task = build_task(name, data_files)
        if task.config.num_fewshot is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(FEWSHOT_SEED)
        task.build_all_requests(limit=limit)
    requests, items, start = list(task.instances), [], 0
    for i, request in enumerate(requests):
        if i + 1 == len(requests) or requests[i + 1].doc_id != request.doc_id:
            items.append((request.doc, slice(start, i + 1)))
            start = i + 1
    return LoadedTask(task, requests, items)


def _evaluate_task(
    lm: LanguageModel, name: str, limit: int | None, data_files: str | None
) -> Measurement:
    protocol = task_protocol(name, limit, data_files)

    def load() -> LoadedTask:
        return load_task(name, limit, data_files, protocol["data"])

    requests = task_requests(lm.encoder, protocol, load)
    if requests is None:
        return _judged_by_the_task(lm, load(), protocol)
    answers = lm.score(requests.sequences, greedy=not requests.are_choices)
    scores = requests.item_scores(answers)
    metrics = [_aggregate(name, items, aggregation_of(name)) for name, items in scores.items()]
    items = {metric: values.astype(np.float32) for metric, values in scores.items()}
    return Measurement(name, protocol, tuple(metrics), items)


def _judged_by_the_task(
    lm: LanguageModel, loaded: LoadedTask, protocol: dict[str, Any]
) -> Measurement:
    """Item by item, by the task's own code."""
    answers = getattr(lm, loaded.requests[0].request_type)(loaded.requests)
    raw: dict[str, list[Any]] = {}
    for document, where in loaded.items:
        for metric, score in loaded.task.process_results(document, answers[where]).items():
            raw.setdefault(metric, []).append(score)
    aggregations = loaded.task.aggregation()
    metrics = tuple(_aggregate(m, scores, aggregations[m]) for m, scores in raw.items())
    kept = {metric: item_scores(scores, aggregations[metric]) for metric, scores in raw.items()}
    items = {metric: scores for metric, scores in kept.items() if scores is not None}
    return Measurement(protocol["task"], protocol, metrics, items)


def _aggregate(metric: str, scores: Sequence[Any] | np.ndarray, aggregation: Any) -> Metric:
    try:
        value = float(aggregation(scores))
    except OverflowError:  # exp of a diverged model's loss
        value = math.inf
    return Metric(metric, value, standard_error(scores, aggregation, value), len(scores))
