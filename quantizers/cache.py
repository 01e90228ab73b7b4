"""Arrays on disk that one process builds and every other then reads: `.npz` files, no pickles."""

from __future__ import annotations

import fcntl
import logging
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np

log = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]


def kept(path: Path, build: Callable[[], Arrays | None]) -> Arrays | None:
    """The arrays at `path`; if there are none, or they are damaged, those that `build` makes, which
    are then kept there, if they can be. Nothing is kept of None.

    Of several processes that ask at once one builds and the others wait for it; one that is killed
    leaves nothing half-written behind and holds up nobody.
    """
    if (arrays := read_arrays(path)) is not None:
        return arrays
    with alone(path) as kept_here:
        if kept_here and (arrays := read_arrays(path)) is not None:
            return arrays
        arrays = build()
        if kept_here and arrays is not None:
            write_arrays(path, arrays)
        return arrays


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Let one process at a time in for `path`; False, and no waiting, where nothing can be kept."""
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(path.with_suffix(".lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the file is closed, also by the system
        except OSError as error:
            log.warning("%s cannot be kept: %s", path, error)
            yield False
            return
        yield True


def write_arrays(path: Path, arrays: Arrays) -> bool:
    """Keep arrays whole or not at all; whether they are."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(partial, path)
        return True
    except OSError as error:  # a full disk, say
        log.warning("%s cannot be kept: %s", path, error)
        return False
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def read_arrays(path: Path) -> Arrays | None:
    """The arrays at `path`, checked; None where there are none or they are damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}  # checks each array's CRC
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s cannot be read and is built again: %s", path, error)
        return None
