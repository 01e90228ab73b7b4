"""What a zero-shot task's items depend on: its data on the hub, or local files and their content.

Light to import: a sweep file is checked before anything heavy is loaded.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from evaluation.data.errors import DataError
from evaluation.data.hub import check_dataset
from evaluation.data.local_files import content_version
from evaluation.sotu.tasks import SOTU_TASKS, task_data_hashes
from evaluation.tasks import paralex
from evaluation.tasks.data_files import PARALEX_DATA, hub_words, local_files, task_rows
from evaluation.tasks.index import task_config


def data_version(name: str, data_files: str | None = None) -> str:
    """What a task's items depend on: equal versions, equal items.

    Local files are found, hashed, and their first rows tried; the hub is not asked. Raises
    ValueError for files that are missing, unreadable or of the wrong columns.
    """
    config = task_config(name)
    if data_files is not None:
        files = local_files(name, data_files)
        version = content_version(*files)
        _check_rows(name, files, version)
        from evaluation.tasks.local_tasks import try_first_rows  # the harness: a second of imports

        try_first_rows(name, files[0], version)
        return version
    if name == paralex.NAME:
        raise DataError(PARALEX_DATA)
    if name in SOTU_TASKS:
        return f"sha256 {task_data_hashes()[name]}"
    return "/".join(filter(None, (config["dataset_path"], config.get("dataset_name"))))


def check_task_on_hub(name: str) -> None:
    """Raises DataError where the hub's data of a task cannot be had now."""
    what, dataset, advice = hub_words(name)
    if name not in SOTU_TASKS and "/" in dataset:  # else a kind of file, or an old name
        check_dataset(what, dataset, advice)


@lru_cache(maxsize=1024)
def _check_rows(name: str, files: tuple[Path, ...], version: str) -> None:
    task_rows(name, files)
