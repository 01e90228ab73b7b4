"""Connecting to a database that holds a study, or may come to hold one: SQLite or PostgreSQL."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    NullPool,
    Pool,
    QueuePool,
    StaticPool,
    create_engine,
    event,
    insert,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import DatabaseError, SQLAlchemyError
from sqlalchemy.orm import Session

from orchestrator.errors import InputError
from orchestrator.store.schema import RESULTS_VIEW, SCHEMA_VERSION, Base, Meta

BUSY_SECONDS = 60
_NOT_WRITABLE = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}


def connect(url: str) -> Engine:
    """An engine whose database answers. Raises InputError where there is none, or of a kind that
    kbit does not use."""
    file = sqlite_file(url)
    try:
        engine = sqlite_engine(file, "rwc") if file else create_engine(url)
        if engine.dialect.name not in ("sqlite", "postgresql"):
            raise InputError(f"{_without_password(url)}: use sqlite:/// or postgresql+psycopg://")
        _ask(engine)
        return engine
    except (SQLAlchemyError, ImportError) as error:
        raise InputError(_unusable(url, error)) from None


def connect_to_read(url: str) -> Engine:
    """The same for one that exists, and that may lie where nothing can be written."""
    file = sqlite_file(url)
    if file is None:
        return connect(url)
    if not file.is_file():
        raise InputError(f"{file}: no such database; run a sweep first or give --db")
    for mode in ("rw", "ro"):  # SQLite keeps a log beside the file
        try:
            engine = sqlite_engine(file, mode)
            _ask(engine)
            return engine
        except SQLAlchemyError as error:
            if _code(error) not in _NOT_WRITABLE:
                raise InputError(_unusable(url, error)) from None
    log = Path(f"{file}-wal")
    if log.exists() and log.stat().st_size > 0:
        raise InputError(
            f"{file}: {log.name} beside it holds results, too, which are read only where files can "
            "be written; copy both to another folder"
        )
    try:
        engine = sqlite_engine(file, "ro&immutable=1")
        _ask(engine)
        return engine
    except SQLAlchemyError as error:
        raise InputError(_unusable(url, error)) from None


def _ask(engine: Engine) -> None:
    with engine.connect() as connection:
        found = "sqlite_master" if engine.dialect.name == "sqlite" else "pg_catalog.pg_class"
        connection.execute(text(f"SELECT count(*) FROM {found} WHERE 1 = 0"))


def _code(error: SQLAlchemyError) -> int:
    return getattr(getattr(error, "orig", None), "sqlite_errorcode", 0) & 0xFF


def _unusable(url: str, error: BaseException) -> str:
    return f"{_without_password(url)}: not a usable database: {one_line(error)}"


def make_tables(connection: Connection) -> None:
    """The tables and the view of a new database."""
    Base.metadata.create_all(connection)
    connection.execute(text(RESULTS_VIEW))
    facts = {
        "application": "kbit",
        "schema_version": str(SCHEMA_VERSION),
        "identity": uuid.uuid4().hex,
    }
    connection.execute(insert(Meta), [{"key": k, "value": v} for k, v in facts.items()])


def let_readers_in(engine: Engine) -> None:
    """Readers never wait for the writer, and it never for them. Kept by the file of SQLite."""
    if engine.dialect.name != "sqlite":
        return
    with engine.connect() as connection:
        raw = connection.connection.dbapi_connection
        assert raw is not None
        connection.rollback()
        raw.cursor().execute("PRAGMA journal_mode = WAL")


def schema_version(engine: Engine, url: str) -> int:
    """The schema's version. Raises InputError when the database is not ours, or newer."""
    try:
        with Session(engine) as session:
            meta = {row.key: row.value for row in session.scalars(select(Meta))}
    except DatabaseError:
        meta = {}
    if meta.get("application") != "kbit":
        raise InputError(f"{url}: not a kbit database; give another --db")
    version = meta.get("schema_version", "")
    if not version.isdigit() or not 1 <= int(version) <= SCHEMA_VERSION:
        raise InputError(
            f"{url}: schema version {version}, this kbit writes {SCHEMA_VERSION}; use a new --db "
            "or the kbit that wrote it"
        )
    return int(version)


def check_columns(engine: Engine, url: str) -> None:
    """Raises InputError for a database that lacks what one of its version has."""
    with engine.connect() as connection:
        found = inspect(connection)
        tables = set(found.get_table_names())
        for name, table in Base.metadata.tables.items():
            known = {column["name"] for column in found.get_columns(name)} if name in tables else ()
            if lacking := [column.name for column in table.columns if column.name not in known]:
                raise InputError(
                    f"{url}: its table {name} lacks {', '.join(lacking)}, which schema version "
                    f"{SCHEMA_VERSION} has: it is damaged, or of a version that was never "
                    "released; use a new --db or the kbit that wrote it"
                )


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite database."""
    database = make_url(url).database if url.startswith("sqlite:///") else None
    return Path(database) if database else None


def one_line(error: BaseException) -> str:
    """What the database said."""
    cause = getattr(error, "orig", None) or error
    return " ".join(str(cause).split())


def sqlite_engine(file: Path, mode: str, pooled: bool = True) -> Engine:
    """SQLite with immediate write transactions: deferred ones lose writes under contention.

    `mode`: as in SQLite's URIs; only `rwc` makes a file where there is none.
    """
    uri = f"{file.absolute().as_uri()}?mode={mode}"

    def connection() -> sqlite3.Connection:
        return sqlite3.connect(uri, timeout=BUSY_SECONDS, uri=True, check_same_thread=False)

    return _engine(file, connection, QueuePool if pooled else NullPool)


def copy_in_memory(engine: Engine) -> Engine:
    """The same SQLite database, to be changed without touching its file."""
    copy = sqlite3.connect(":memory:", check_same_thread=False)
    with engine.connect() as connection:
        source = connection.connection.dbapi_connection
        assert isinstance(source, sqlite3.Connection)
        connection.rollback()
        source.backup(copy)
    return _engine(Path(str(engine.url.database)), lambda: copy, StaticPool)


def _engine(file: Path, connection: Callable[[], sqlite3.Connection], pool: type[Pool]) -> Engine:
    url = URL.create("sqlite", database=str(file))
    engine = create_engine(url, creator=connection, poolclass=pool)

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = NORMAL")

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Any) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _without_password(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return url
