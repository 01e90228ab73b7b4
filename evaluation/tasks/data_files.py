"""Where a zero-shot task's items are: on the hub, or in local files, whose rows are read here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from evaluation.data.errors import DataError
from evaluation.data.local_files import ROW_FILES, is_row_file, read_rows
from evaluation.sotu.tasks import SOTU_TASKS
from evaluation.tasks import paralex
from evaluation.tasks.index import task_config

PARALEX_DATA = (
    f"task {paralex.NAME!r} is not on the hub: give `data_files`, a file with the columns "
    f"{' and '.join(paralex.COLUMNS)}"
)


def hub_words(name: str) -> tuple[str, str, str]:
    """A task's data in words, its data set on the hub, and what to do without it."""
    dataset = str(task_config(name).get("dataset_path"))
    advice = (
        f"Point it at a local copy in the sweep file (tasks: [{{name: {name}, data_files: PATH}}]),"
        f" set HF_HOME to a cache that holds it, or use {', '.join(SOTU_TASKS)}"
    )
    return f"zero-shot task {name!r}: its data ({dataset})", dataset, advice


def task_rows(name: str, files: tuple[Path, ...], first: int | None = None) -> list[dict[str, Any]]:
    """The rows (of each file the `first` few; None: all) of a task's local files.

    Raises ValueError for rows that cannot be read, or lack columns that the first row has.
    """
    rows = [row for file in files for row in read_rows(file, first)]
    if not rows:
        raise DataError(f"data file {files[0]} for task {name!r} is empty")
    for number, row in enumerate(rows, start=1):
        if lacking := rows[0].keys() - row.keys():
            raise DataError(
                f"data file {files[0]} for task {name!r}: row {number} lacks "
                f"{', '.join(sorted(lacking))}, which row 1 has"
            )
    return rows


def local_files(name: str, data_files: str) -> tuple[Path, ...]:
    """The files that hold a task's items: `data_files` itself, or, in a folder, `NAME.*`, else the
    evaluation split's files as a copy of the hub's data set has them (`[CONFIG/]SPLIT*.*`, also
    below `data/`).

    Raises ValueError where there is none.
    """
    path = Path(os.path.expanduser(data_files))
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except OSError as error:  # a folder that may not be entered, a name too long
        raise DataError(f"data_files {data_files[:200]}: {error.strerror}") from None
    if path.is_file():
        if not is_row_file(path):
            raise DataError(f"data file {path}: give one of {', '.join(ROW_FILES)}")
        return (path,)
    if not path.exists():
        raise DataError(f"data_files {path} for task {name!r}: no such file or folder")
    config = task_config(name)
    part, split = config.get("dataset_name") or ".", _evaluated_split(config)
    patterns = [f"{name}.*", f"{part}/{split}[-.]*", f"{split}[-.]*", f"data/{split}[-.]*"]
    for pattern in patterns:
        found = tuple(sorted(file for file in path.glob(pattern) if is_row_file(file)))
        if found:
            return found
    wanted = " or ".join(dict.fromkeys(str(path / pattern) for pattern in patterns[:2]))
    raise DataError(f"data_files {path} for task {name!r}: the folder has no {wanted}")


def _evaluated_split(config: dict[str, Any]) -> str:
    return config.get("test_split") or config.get("validation_split") or "test"
