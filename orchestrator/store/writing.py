"""Transactions of the one writer, on a database that is still the one it opened."""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, select, text
from sqlalchemy.exc import DBAPIError

from orchestrator.errors import InputError, SweepStopped
from orchestrator.store.engine import sqlite_engine, sqlite_file
from orchestrator.store.guard import DatabaseLost, FileGuard
from orchestrator.store.lock import Busy, file_lock, session_lock
from orchestrator.store.recording import insert_new
from orchestrator.store.schema import Meta

_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR}
_HOLDER = "writer"  # a row of kbit_meta: who holds the lock, or held it last


class Writer:
    """Writes to a database whose tables are made; for SQLite, that file and no other."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine.execution_options(writes=True)
        self.url = engine.url.render_as_string(hide_password=True)
        self.guard: FileGuard | None = None
        self._session: Connection | None = None  # the lock's: without it nothing is written
        self._lost = False
        path = sqlite_file(self.url)
        if path is not None:
            self.guard = FileGuard(path)
            # A connection for each transaction: its pages come from the file as it is now.
            fresh = sqlite_engine(path, "rw", pooled=False)
            self._engine = fresh.execution_options(writes=True)
        with engine.connect() as connection:
            self._identity = _identity(connection)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the right to write. Raises InputError when another has it."""
        try:
            if self.guard is not None:
                with file_lock(str(self.guard.path)):
                    self._sign()
                    yield
            else:
                with session_lock(self._engine) as self._session:
                    self._lost = False
                    self._sign()
                    try:
                        yield
                    finally:
                        self._session = None
        except Busy:
            raise InputError(
                f"{self.url}: {self._holder()} is writing to it; wait for that sweep, or give "
                "another --db"
            ) from None

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction that is committed at its end, unless it raises.

        Raises DatabaseLost when the database is no longer the one that was opened.
        """
        if self._session is not None:
            if self._lost:  # SQLAlchemy would connect again, without the lock
                raise SweepStopped(f"{self.url}: its lock is lost")
            try:
                with self._session.begin():
                    yield self._session
            finally:
                self._lost = self._session.invalidated
            return
        self.check()
        try:
            with self._engine.begin() as connection:
                if self.guard is not None and _identity(connection) != self._identity:
                    raise DatabaseLost("it was overwritten by another database", True)
                yield connection
        except DBAPIError as error:
            self.check()
            if self.guard is not None and _code(error) in _BROKEN:
                raise DatabaseLost(f"it was damaged ({error.orig})", True) from None
            raise
        try:
            self.check()
        except DatabaseLost as lost:
            lost.committed = True
            raise

    def check(self) -> None:
        """Raises DatabaseLost, see above."""
        if self.guard is not None:
            self.guard.check()

    def close(self) -> None:
        if self.guard is not None:
            self.guard.close()

    def _sign(self) -> None:
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        with self.transaction() as connection:
            insert_new(connection, Meta, [{"key": _HOLDER, "value": holder}])
            update = text("UPDATE kbit_meta SET value = :holder WHERE key = :key")
            connection.execute(update, {"holder": holder, "key": _HOLDER})
        if self.guard is not None:
            self.guard.merge_log()  # so that the identity is read from the file itself

    def _holder(self) -> str:
        try:
            with self._engine.connect() as connection:
                return connection.scalar(_value(_HOLDER)) or "another process"
        except DBAPIError:
            return "another process"


def _value(key: str):  # type: ignore[no-untyped-def]
    return select(Meta.value).where(Meta.key == key)


def _identity(connection: Connection) -> str | None:
    return connection.scalar(_value("identity"))


def _code(error: DBAPIError) -> int:
    return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
