"""One writer a database: a lock on the database itself, which goes with its holder.

SQLite: a lock of an open file description on one byte of the database file, far beyond its end and
beyond those that SQLite locks. It follows the file through hard links and renames, nothing beside
the file can undo it, and the kernel drops it with the process, also after `kill -9`. A row with the
holder's process and host would outlive it and need a heartbeat; a file beside the database can be
removed. The usual locks of fcntl would do harm: closing any descriptor of a file drops all that the
process holds on it, SQLite's among them. For the same reason descriptors are never closed here.

PostgreSQL: an advisory lock of one session, in which everything is written: whoever loses the
session can neither hold the lock nor write.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from orchestrator.errors import InputError

_ADVISORY_KEY = 0x6B626974  # "kbit"; PostgreSQL's advisory locks are per database
_BYTE = 1 << 60  # SQLite locks those from 1 << 30
_spare: dict[tuple[int, int], list[int]] = {}  # (device, inode) -> open descriptors without a lock


class Busy(Exception):
    """Another process, or another Store of this one, is writing."""


def serialize_setup(connection: Connection) -> None:
    """Let one process at a time make or migrate the tables (SQLite does so by itself)."""
    if connection.dialect.name == "postgresql":
        query = text("SELECT pg_advisory_xact_lock(:key)")
        connection.execute(query, {"key": _ADVISORY_KEY + 1})


@contextmanager
def file_lock(path: str) -> Iterator[None]:
    """Hold the lock of an SQLite file. Raises Busy, or InputError where there are no such locks."""
    try:
        place = os.stat(path)
        spare = _spare.setdefault((place.st_dev, place.st_ino), [])
        descriptor = spare.pop() if spare else os.open(path, os.O_RDWR)
        try:
            _set(descriptor, fcntl.F_WRLCK)
        except BaseException:
            spare.append(descriptor)
            raise
    except BlockingIOError:
        raise Busy from None
    except (OSError, AttributeError) as error:  # AttributeError: not Linux
        raise InputError(
            f"{path}: cannot be locked: {error}; put it on a local disk, or give a PostgreSQL --db"
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):
            _set(descriptor, fcntl.F_UNLCK)
        spare.append(descriptor)


def _set(descriptor: int, kind: int) -> None:
    request = struct.pack("hhqqi4x", kind, os.SEEK_SET, _BYTE, 1, 0)
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)


@contextmanager
def session_lock(engine: Engine) -> Iterator[Connection]:
    """Hold the lock of a PostgreSQL database and yield the session to write in. Raises Busy."""
    with engine.connect() as connection:
        query = text("SELECT pg_try_advisory_lock(:key)")
        taken = connection.execute(query, {"key": _ADVISORY_KEY}).scalar()
        connection.rollback()  # the lock is the session's, not the transaction's
        if not taken:
            raise Busy
        try:
            yield connection
        finally:  # the connection goes back to the pool, not away
            with suppress(DBAPIError):  # a session that is gone holds no lock
                connection.rollback()
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _ADVISORY_KEY})
                connection.rollback()
