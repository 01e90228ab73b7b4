"""The harness's tasks on local data files: its prompts and metrics, the user's rows.

Rows have the columns of the task's hub data set. Or they are already in the form that the harness
gives its choice tasks, `choices` (a list of texts) and `gold` (the index of the right one) beside
what the prompt reads; the task's own preprocessing is then skipped.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Iterator
from functools import lru_cache
from numbers import Integral  # numpy's integers are of it too
from pathlib import Path
from typing import Any

import datasets
from jinja2 import Environment, meta
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from evaluation.data.errors import DataError
from evaluation.data.hub import from_hub
from evaluation.sotu.tasks import SOTU_TASKS, task_directory
from evaluation.tasks import paralex
from evaluation.tasks.data_files import PARALEX_DATA, hub_words, local_files, task_rows
from evaluation.tasks.index import task_config, task_file

SPLIT = "local"
_CHECKED_ROWS = 4  # before a sweep starts; the rest when the task is built


class LocalTask(ConfigurableTask):
    """A task whose one split are given rows."""

    def __init__(self, config: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        self._rows = rows
        super().__init__(config=config)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.dataset = datasets.DatasetDict({SPLIT: datasets.Dataset.from_list(self._rows)})


def build_task(name: str, data_files: str | None = None) -> Task:
    """The harness's task, its data from the hub or from `data_files` (see `local_files`).

    Raises ValueError for an unknown task, for local rows that it cannot read, and where the hub's
    data cannot be had.
    """
    if data_files is not None:
        return _local_task(name, local_files(name, data_files), None)
    if name == paralex.NAME:
        raise DataError(PARALEX_DATA)
    if name in SOTU_TASKS:
        return _local_task(name, (task_directory() / f"{name}.jsonl",), None)
    what, _, advice = hub_words(name)
    manager = TaskManager(include_defaults=False)
    return from_hub(what, lambda: manager.load([str(task_file(name))])["tasks"][name], advice)


@lru_cache(maxsize=1024)
def try_first_rows(name: str, file: Path, version: str) -> None:
    """Raises ValueError where the first rows of a file are not the task's."""
    _local_task(name, (file,), _CHECKED_ROWS)


def _local_task(name: str, files: tuple[Path, ...], first: int | None) -> LocalTask:
    if (task_config(name).get("num_fewshot") or 0) > 0:
        raise ValueError(
            f"task {name!r} shows examples from another split of its data: it needs the hub's data "
            "set (HF_HOME with a cache that holds it), data_files will not do"
        )
    rows = task_rows(name, files, first)
    try:
        return _task_of_rows(name, rows, files[0])
    except ValueError:
        if files[0].suffix.lower() not in (".csv", ".tsv"):
            raise
        with contextlib.suppress(ValueError):  # tables hold text alone, the hub's data numbers too
            return _task_of_rows(name, _with_numbers(rows), files[0])
        raise


def _with_numbers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, whole numbers in place of their text in columns that hold nothing else."""
    is_number = re.compile(r"0|-?[1-9]\d*").fullmatch
    numbers = {name for name in rows[0] if all(is_number(row[name] or "") for row in rows)}
    return [{k: int(v) if k in numbers else v for k, v in row.items()} for row in rows]


def _task_of_rows(name: str, rows: list[dict[str, Any]], file: Path) -> LocalTask:
    config = _resolved_config(name) | {
        "test_split": SPLIT,
        "validation_split": None,
        "training_split": None,
        "fewshot_split": None,
        "fewshot_config": None,
    }
    if isinstance(rows[0].get("choices"), list) and "gold" in rows[0]:
        config |= {"process_docs": None, "doc_to_choice": "choices", "doc_to_target": "gold"}
    try:
        if unknown := _columns_read(config) - rows[0].keys():
            raise ValueError(f"it lacks {', '.join(sorted(unknown))}")
        with _quiet():
            task = LocalTask(config, rows)
        if task.OUTPUT_TYPE == "multiple_choice":
            for number, document in enumerate(task.eval_docs, start=1):
                _check_answer(task, document, number)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        if isinstance(error, KeyError):
            reason = f"it lacks {error.args[0]}"
        raise DataError(
            f"data file {file} does not fit task {name!r}: {reason}; its columns are "
            f"{', '.join(rows[0])}"
        ) from error
    return task


def _columns_read(config: dict[str, Any]) -> set[str]:
    """The columns that the templates name; what functions read shows when they run."""
    if config.get("process_docs") is not None:
        return set()
    keys = ("doc_to_text", "doc_to_target", "doc_to_choice")
    texts = [config[key] for key in keys if isinstance(config.get(key), str)]
    return {
        name for text in texts for name in meta.find_undeclared_variables(Environment().parse(text))
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's notices on its own task files, and progress bars."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _resolved_config(name: str) -> dict[str, Any]:
    if name == paralex.NAME:
        return dict(paralex.CONFIG)
    config: dict[str, Any] = load_yaml(task_file(name))
    for key in ("tag", "group", "dataset_path", "dataset_name", "dataset_kwargs"):
        config.pop(key, None)
    return config


def _check_answer(task: LocalTask, document: dict[str, Any], number: int) -> None:
    """The harness scores an item without a right answer as wrong; here it is an error."""
    choices = task.doc_to_choice(document)
    answer = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
    for one in answer if isinstance(answer, list) else [answer]:
        if not (one in choices or (isinstance(one, Integral) and 0 <= int(one) < len(choices))):
            raise ValueError(f"row {number}: {one!r} is none of {len(choices)} choices")
