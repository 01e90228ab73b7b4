"""The file of an SQLite database that is being written: still the same, or results are rescued.

SQLite goes on writing to a file that was removed, moved or replaced, and into the middle of one
that was cut short. Whoever writes therefore looks before and after every transaction. Through the
connection kept here everything stored so far can still be read, unless the content itself is gone.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterable
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.paths import results_dir


class DatabaseLost(Exception):
    """The file is not what it was.

    `content_gone`: its content was changed in place. `committed`: noticed after a transaction.
    """

    def __init__(self, reason: str, content_gone: bool) -> None:
        super().__init__(reason)
        self.content_gone = content_gone
        self.committed = False


class FileGuard:
    """Knows the file and its write-ahead log by device and inode, and its size."""

    def __init__(self, path: Path) -> None:
        """`path`: a database with its tables made and its journal mode set."""
        self.path = path
        # An open file keeps its inode: what takes its place on the disk has another one.
        self._kept = sqlite3.connect(path, check_same_thread=False)
        self._kept.execute("SELECT count(*) FROM sqlite_master")  # opens the log, too
        log = Path(f"{path}-wal")
        self._places = {file: _place(file) for file in (path, log) if file.exists()}
        self._size = path.stat().st_size

    def check(self) -> None:
        """Raises DatabaseLost when the file was removed, moved, replaced or truncated."""
        for file, place in self._places.items():
            try:
                now = _place(file)
            except OSError:
                raise DatabaseLost(f"{file.name} was removed or moved", False) from None
            if now != place:
                raise DatabaseLost(f"{file.name} was replaced by another file", False)
        size = self.path.stat().st_size
        if size < self._size:
            raise DatabaseLost("it was truncated", True)
        self._size = size

    def rescue_file(self) -> Path:
        """A new name for what can be saved: beside the database, else where there is room."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        for folder in (self.path.parent, results_dir(), Path(tempfile.gettempdir())):
            path = folder / f"{self.path.stem}-rescued-{stamp}-{os.getpid()}.db"
            try:
                path.touch(exist_ok=False)
            except OSError:
                continue
            path.unlink()
            return path
        raise OSError(f"no folder takes a file: {self.path.parent}, {results_dir()}")

    def merge_log(self) -> None:
        """Bring what the log holds into the file, as far as readers let it."""
        self._kept.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def copy_to(self, target: Path) -> bool:
        """Everything stored so far, in one file; False, and no file, where it cannot be read."""
        try:
            with closing(sqlite3.connect(target)) as copy:
                self._kept.backup(copy)
                if not problems(copy):
                    return True
        except sqlite3.Error:
            pass
        target.unlink(missing_ok=True)
        return False

    def leave(self, content_gone: bool) -> None:
        """Take our log from beside the place, once its content is saved: SQLite would replay it
        into whatever is put there, the rescue file among them. A file that was moved keeps it."""
        with suppress(sqlite3.Error):
            if not content_gone:
                self.merge_log()
        log = Path(f"{self.path}-wal")
        with suppress(OSError):
            if self._places.get(log) == _place(log):
                log.unlink()

    def close(self) -> None:
        self._kept.close()


def problems(connection: sqlite3.Connection) -> list[str]:
    """What SQLite's own check of a whole file finds; [] is none."""
    rows: Iterable[tuple[str]] = connection.execute("PRAGMA integrity_check(5)")
    return [text for (text,) in rows if text != "ok"]


def _place(file: Path) -> tuple[int, int]:
    found = os.stat(file)
    return found.st_dev, found.st_ino
