"""Zero-shot accuracy: lm-evaluation-harness's tasks, prompts and metrics on a resident model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from evaluation.engine.engine import Engine
from evaluation.engine.language_model import LanguageModel
from evaluation.measurement import Measurement, Metric
from evaluation.protocols import task_protocol
from evaluation.tasks.loaded_task import LoadedTask, load_task
from evaluation.tasks.requests import aggregation_of, task_requests
from evaluation.tasks.standard_error import item_scores, standard_error


def evaluate_zero_shot(
    engine: Engine,
    tasks: Sequence[str],
    limit: int | None = None,
    data_files: Mapping[str, str] = MappingProxyType({}),
    context: int | None = None,
) -> list[Measurement]:
    """Score the first `limit` items (None: all) of each task, one measurement a task.

    Every metric of the task is returned, with its score of each item where it is a number. Means
    have the standard error of the mean; a perplexity that of its exponent (delta method). With a
    diverged model (nan) the first choice counts as chosen. Each task is batched by itself, so its
    scores do not depend on the others. `data_files` points tasks at local copies of their data (see
    `local_tasks`); `context`: tokens read at a time (None: all that the model reads).

    Raises ValueError for unknown tasks, generation tasks, data that cannot be loaded, a context
    that the model cannot read, and tokens that it has no embeddings for.
    """
    lm = LanguageModel(engine, context)
    return [_evaluate_task(lm, name, limit, data_files.get(name)) for name in tasks]


def _evaluate_task(
    lm: LanguageModel, name: str, limit: int | None, data_files: str | None
) -> Measurement:
    protocol = task_protocol(name, limit, data_files)

    def load() -> LoadedTask:
        return load_task(name, limit, data_files, protocol["data"])

    requests = task_requests(lm.engine.encoder, protocol, load)
    if requests is None:
        return _judged_by_the_task(lm, load(), protocol)
    answers = lm.score(requests.sequences, f"task {name}", greedy=not requests.are_choices)
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
