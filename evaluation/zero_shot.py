"""Zero-shot accuracy: lm-evaluation-harness's tasks, prompts and metrics on a resident model."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean, perplexity
from lm_eval.api.model import LM
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from evaluation.measurement import Measurement, Metric
from evaluation.sotu_tasks import SOTU_TASKS, task_data_hashes
from evaluation.task_index import HARNESS, task_config, task_file

FEWSHOT_SEED = 1234  # the harness's own default


@dataclass(frozen=True)
class LoadedTask:
    """A task, its requests, and for each item its document and its slice of the requests."""

    task: Task
    requests: list[Instance]
    items: list[tuple[Any, slice]]


def evaluate_zero_shot(lm: LM, tasks: Sequence[str], limit: int | None = None) -> list[Measurement]:
    """Score the first `limit` items (None: all) of each task, one measurement a task.

    Every metric of the task is returned, with its score of each item where it is a number. Means
    have the standard error of the mean; a perplexity that of its exponent (delta method). With a
    diverged model (nan) the first choice counts as chosen. Each task is batched by itself, so its
    scores do not depend on the others. Raises ValueError for unknown tasks, generation tasks, and
    data that cannot be loaded.
    """
    return [_evaluate_task(lm, name, limit) for name in tasks]


def task_protocol(name: str, limit: int | None = None) -> dict[str, Any]:
    """What a task's scores depend on besides the model; loads no data set. Raises ValueError for
    unknown and generation tasks and for a limit below 1."""
    if limit is not None and limit < 1:
        raise ValueError(f"task {name}: limit {limit} must be at least 1 (or absent, for all)")
    config = task_config(name)
    if name in SOTU_TASKS:
        data = f"sha256 {task_data_hashes()[name]}"
    else:
        data = "/".join(filter(None, (config["dataset_path"], config.get("dataset_name"))))
    return {
        "task": name,
        "task_version": (config.get("metadata") or {}).get("version"),
        "data": data,
        "limit": limit,
        "num_fewshot": config.get("num_fewshot") or 0,
        "harness": HARNESS,
    }


@lru_cache(maxsize=32)
def load_task(name: str, limit: int | None = None) -> LoadedTask:
    """A task with its data and requests, built once a process. Raises ValueError as above."""
    config = task_config(name)
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars that nothing else turns off
        try:
            loaded = TaskManager(include_defaults=False).load([str(task_file(name))])
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise ValueError(
                f"zero-shot task {name!r}: its data ({config['dataset_path']}) cannot be loaded: "
                f"{reason}. Without access to the hub, set HF_HOME to a cache that holds it, or "
                f"use {', '.join(SOTU_TASKS)}"
            ) from error
        task = loaded["tasks"][name]
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


def _evaluate_task(lm: LM, name: str, limit: int | None) -> Measurement:
    protocol = task_protocol(name, limit)
    loaded = load_task(name, limit)
    answers = getattr(lm, loaded.requests[0].request_type)(loaded.requests)
    raw: dict[str, list[Any]] = {}
    for document, where in loaded.items:
        for metric, score in loaded.task.process_results(document, answers[where]).items():
            raw.setdefault(metric, []).append(score)
    aggregations = loaded.task.aggregation()
    metrics = tuple(_aggregate(m, scores, aggregations[m]) for m, scores in raw.items())
    items = {
        metric: np.array(scores, dtype=np.float32)
        for metric, scores in raw.items()
        if np.isscalar(scores[0])
    }
    return Measurement(name, protocol, metrics, items)


def _aggregate(metric: str, scores: list[Any], aggregation: Any) -> Metric:
    try:
        value = float(aggregation(scores))
    except OverflowError:  # exp of a diverged model's loss
        value = math.inf
    stderr = None
    if aggregation in (mean, perplexity) and len(scores) > 1:
        with np.errstate(all="ignore"):
            stderr = float(np.std(scores, ddof=1) / math.sqrt(len(scores)))
            if aggregation is perplexity:
                stderr *= value
    return Metric(metric, value, stderr, len(scores))
