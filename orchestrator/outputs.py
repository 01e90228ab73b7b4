"""Where a command may write: checked before any work, since what cannot be written is work lost."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import InputError
from orchestrator.paths import results_dir
from quantizers.plain import reason


def file_to_write(path: Path, option: str = "--output") -> Path:
    """The absolute path of a file that can be written, or written over.

    Raises InputError: a folder of that name, a folder that is not there (a slip of the pen makes no
    tree; the results folder is made) or that nothing can be written in.
    """
    path = Path(os.path.expanduser(path)).absolute()
    if path.is_dir():
        raise InputError(f"{option} {path}: is a folder; give a file in it")
    if path.exists() and not os.access(path, os.W_OK):
        raise InputError(f"{option} {path}: cannot be written; give another")
    _check_parent(path, option)
    return path


def folder_to_fill(path: Path, option: str = "--output", *, new: bool = False) -> Path:
    """The absolute path of a folder that can be made, or, unless it has to be `new`, filled.

    Raises InputError as `file_to_write` does.
    """
    path = Path(os.path.expanduser(path)).absolute()
    if new and path.exists():
        raise InputError(f"{option} {path}: is there already; give a new one")
    if path.exists() and not path.is_dir():
        raise InputError(f"{option} {path}: is a file; give a folder")
    if path.is_dir():
        _check_writable(path, option)
    else:
        _check_parent(path, option)
    return path


@contextmanager
def writing(path: Path, option: str = "--output") -> Iterator[None]:
    """What cannot be written after all, a full disk for one, as an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{option} {path}: cannot be written: {reason(error)}") from None


def results_folder() -> Path:
    """The results folder, made where it is missing. Raises InputError where it cannot be."""
    folder = results_dir()
    named = "KBIT_RESULTS=" if os.environ.get("KBIT_RESULTS") else ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"cannot be made: {error.strerror}"
        raise InputError(f"{named}{folder}: {reason}; set KBIT_RESULTS to a folder") from None
    if not _takes_files(folder):
        raise InputError(f"{named}{folder}: cannot be written; set KBIT_RESULTS to a folder")
    return folder


def folder_of_database(file: Path) -> None:
    """Make the folder of a database. Raises InputError where it cannot be made."""
    if file.is_relative_to(results_dir()):
        results_folder()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"cannot be made: {error.strerror}"
        raise InputError(f"{file.parent}: {reason}; give another database") from None


def _check_parent(path: Path, option: str) -> None:
    parent = path.parent
    if parent.is_relative_to(results_dir()):
        results_folder()
        return
    if not parent.is_dir():
        what = "is a file" if parent.exists() else "no such folder"
        raise InputError(f"{option} {path}: {parent}: {what}")
    _check_writable(parent, option)


def _check_writable(folder: Path, option: str) -> None:
    if not _takes_files(folder):
        raise InputError(f"{option} {folder}: nothing can be written there; give another")


def _takes_files(folder: Path) -> bool:
    """Tried with a file without a name: the permissions of /proc promise what it does not do."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
