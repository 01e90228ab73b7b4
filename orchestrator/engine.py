"""Connecting to a database that holds a study, or may come to hold one: SQLite or PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, make_url, select, text
from sqlalchemy.exc import DatabaseError, SQLAlchemyError
from sqlalchemy.orm import Session

from orchestrator.errors import InputError
from orchestrator.schema import RESULTS_VIEW, SCHEMA_VERSION, Base, Meta

BUSY_SECONDS = 60


def connect(url: str) -> Engine:
    """An engine whose database answers. Raises InputError where there is none, or of a kind that
    kbit does not use."""
    try:
        engine = _sqlite_engine(url) if url.startswith("sqlite") else create_engine(url)
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
            if url.startswith("sqlite"):
                connection.execute(text("SELECT count(*) FROM sqlite_master"))
    except (SQLAlchemyError, ImportError) as error:
        raise InputError(
            f"{_without_password(url)}: not a usable database: {one_line(error)}"
        ) from None
    if engine.dialect.name not in ("sqlite", "postgresql"):
        raise InputError(f"{_without_password(url)}: use sqlite:/// or postgresql+psycopg://")
    return engine


def make_tables(connection: Connection) -> None:
    """The tables and the view of a new database."""
    Base.metadata.create_all(connection)
    connection.execute(text(RESULTS_VIEW))
    facts = {"application": "kbit", "schema_version": str(SCHEMA_VERSION)}
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


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite database."""
    database = make_url(url).database if url.startswith("sqlite:///") else None
    return Path(database) if database else None


def one_line(error: BaseException) -> str:
    """What the database said."""
    cause = getattr(error, "orig", None) or error
    return " ".join(str(cause).split())


def _sqlite_engine(url: str) -> Engine:
    """SQLite with immediate write transactions: deferred ones lose writes under contention."""
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})

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
