"""A task of lm-evaluation-harness with its data and the requests that it makes of them."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import Task

from evaluation.tasks.local_tasks import build_task

FEWSHOT_SEED = 1234  # the harness's own default


@dataclass(frozen=True)
class LoadedTask:
    """A task, its requests, and for each item its document and its slice of the requests."""

    task: Task
    requests: list[Instance]
    items: list[tuple[Any, slice]]


@lru_cache(maxsize=32)
def load_task(
    name: str, limit: int | None = None, data_files: str | None = None, data: str | None = None
) -> LoadedTask:
    """A task with its data and requests, built once a process for a version `data` of local files.
    Raises ValueError for
    unknown tasks, generation tasks, and data that cannot be loaded."""
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
