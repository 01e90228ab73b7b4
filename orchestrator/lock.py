"""One sweep a database: a lock that the operating system or the server drops with its holder."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from orchestrator.errors import InputError

_ADVISORY_KEY = 0x6B626974  # "kbit"; PostgreSQL's advisory locks are per database


@contextmanager
def sweep_lock(engine: Engine) -> Iterator[None]:
    """Hold the right to write the database. Raises InputError when another sweep has it.

    SQLite: an flock on a file beside the database, so it must lie on a local disk. Nothing is left
    locked after `kill -9`.
    """
    if engine.dialect.name == "sqlite":
        with _file_lock(f"{engine.url.database}.lock"):
            yield
    else:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            query = text("SELECT pg_try_advisory_lock(:key)")
            if not connection.execute(query, {"key": _ADVISORY_KEY}).scalar():
                raise InputError(_refusal(str(engine.url), "another sweep"))
            try:
                yield
            finally:  # the connection goes back to the pool, not away
                query = text("SELECT pg_advisory_unlock(:key)")
                with suppress(DBAPIError):  # a connection that is gone holds no lock
                    connection.execute(query, {"key": _ADVISORY_KEY})


def serialize_setup(connection: Connection) -> None:
    """Let one process at a time make or migrate the tables (SQLite does so by itself)."""
    if connection.dialect.name == "postgresql":
        query = text("SELECT pg_advisory_xact_lock(:key)")
        connection.execute(query, {"key": _ADVISORY_KEY + 1})


@contextmanager
def _file_lock(path: str) -> Iterator[None]:
    try:
        # Python's descriptors are not inherited: Ray's processes cannot keep the lock alive.
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        reason = f"cannot be written: {error.strerror}; give another --db"
        raise InputError(f"{path}: {reason}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip()
            raise InputError(_refusal(path.removesuffix(".lock"), holder)) from None
        os.truncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def _refusal(database: str, holder: str) -> str:
    return f"{database}: {holder} is writing to it; wait for that sweep, or give another --db"
