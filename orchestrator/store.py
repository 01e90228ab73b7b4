"""The one database of a study: what is stored, what is missing, what people query.

Promises: the driver of a sweep is the only writer; a result is recorded in one transaction, whole
or not at all; recording a result again changes nothing; readers never block the writer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sqlalchemy import (
    Connection,
    Engine,
    create_engine,
    event,
    func,
    insert,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import DatabaseError, DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from orchestrator.batch_sizes import batch_sizes, discard_larger
from orchestrator.errors import InputError, SweepStopped
from orchestrator.item_scores import unpack_scores
from orchestrator.lock import serialize_setup, sweep_lock
from orchestrator.migrate import migrate
from orchestrator.recording import write_results
from orchestrator.schema import (
    RESULT_COLUMNS,
    RESULTS_VIEW,
    SCHEMA_VERSION,
    AttemptRow,
    Base,
    ExperimentRow,
    ItemScoresRow,
    MeasurementRow,
    Meta,
    ProtocolRow,
)

if TYPE_CHECKING:  # reading a database must not wait for torch
    from orchestrator.experiment import Experiment, Protocol
    from orchestrator.job import JobResult

BUSY_SECONDS = 60


def _one_line(error: BaseException) -> str:
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


def _sqlite_file(url: str) -> Path | None:
    database = make_url(url).database if url.startswith("sqlite:///") else None
    return Path(database) if database else None


class Store:
    """Access to one database. Use `Store.create` to write, `Store.open` to read."""

    def __init__(self, engine: Engine) -> None:
        self.url = engine.url.render_as_string(hide_password=True)
        self.engine = engine
        self._writer = engine.execution_options(writes=True)

    @classmethod
    def create(cls, url: str) -> Store:
        """Open for writing; make the tables of a new database, bring an older one up to date.

        Raises InputError for a database that is not ours, of a newer schema, or not writable.
        """
        if file := _sqlite_file(url):
            cls._make_folder(file.parent)
        store = cls._connect(url)
        try:
            with store._writer.begin() as connection:
                serialize_setup(connection)
                if not inspect(connection).get_table_names():
                    Base.metadata.create_all(connection)
                    connection.execute(text(RESULTS_VIEW))
                    facts = {"application": "kbit", "schema_version": str(SCHEMA_VERSION)}
                    rows = [{"key": key, "value": value} for key, value in facts.items()]
                    connection.execute(insert(Meta), rows)
                elif (version := store._version()) < SCHEMA_VERSION:
                    migrate(connection, version)
            if url.startswith("sqlite"):
                # Readers never wait for the writer, and it never for them. Kept by the file.
                with store.engine.connect() as connection:
                    raw = connection.connection.dbapi_connection
                    assert raw is not None
                    connection.rollback()
                    raw.cursor().execute("PRAGMA journal_mode = WAL")
        except DBAPIError as error:
            raise InputError(f"{store.url}: cannot be written: {_one_line(error)}") from None
        return store

    @classmethod
    def open(cls, url: str) -> Store:
        """Open an existing database for reading. Raises InputError when there is none."""
        file = _sqlite_file(url)
        if file and not file.is_file():
            raise InputError(f"{file}: no such database; run a sweep first or give --db")
        store = cls._connect(url)
        if (version := store._version()) < SCHEMA_VERSION:
            raise InputError(
                f"{store.url}: schema version {version} is older than {SCHEMA_VERSION}; start its "
                "sweep again to bring it up to date"
            )
        return store

    @staticmethod
    def _make_folder(folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: cannot be made: {error.strerror}; give --db") from None

    @classmethod
    def _connect(cls, url: str) -> Store:
        try:
            engine = _sqlite_engine(url) if url.startswith("sqlite") else create_engine(url)
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
                if url.startswith("sqlite"):
                    connection.execute(text("SELECT count(*) FROM sqlite_master"))
        except (SQLAlchemyError, ImportError) as error:
            raise InputError(
                f"{_without_password(url)}: not a usable database: {_one_line(error)}"
            ) from None
        if engine.dialect.name not in ("sqlite", "postgresql"):
            raise InputError(f"{_without_password(url)}: use sqlite:/// or postgresql+psycopg://")
        return cls(engine)

    def _version(self) -> int:
        """The schema version. Raises InputError when the database is not ours, or newer."""
        try:
            with Session(self.engine) as session:
                meta = {row.key: row.value for row in session.scalars(select(Meta))}
        except DatabaseError:
            meta = {}
        if meta.get("application") != "kbit":
            raise InputError(f"{self.url}: not a kbit database; give another --db")
        version = meta.get("schema_version", "")
        if not version.isdigit() or not 1 <= int(version) <= SCHEMA_VERSION:
            raise InputError(
                f"{self.url}: schema version {version}, this kbit writes {SCHEMA_VERSION}; use a "
                "new --db or the kbit that wrote it"
            )
        return int(version)

    # Writing

    def lock(self) -> AbstractContextManager[None]:
        """Hold the right to write: one sweep at a time. Raises InputError when another has it."""
        return sweep_lock(self.engine)

    def record(self, *results: JobResult) -> None:
        """Store attempts with their measurements and per-item scores, in one transaction.

        Raises SweepStopped when the database does not take it (full disk, read-only, locked for
        longer than BUSY_SECONDS): nothing of these results is stored then, all earlier ones are.
        """
        if not results:
            return
        try:
            with self._writer.begin() as connection:
                write_results(connection, results)
        except DBAPIError as error:
            raise SweepStopped(
                f"{self.url}: cannot be written: {_one_line(error)}; results up to here are stored"
            ) from None

    def discard_larger_batches(
        self, stage: str, experiments: Collection[str], protocols: Collection[str]
    ) -> int:
        """Discard scores from larger batches than their model could hold later; the number of
        experiments (see orchestrator.batch_sizes). Raises SweepStopped as `record` does."""
        try:
            with self._writer.begin() as connection:
                return discard_larger(connection, stage, experiments, protocols)
        except DBAPIError as error:
            raise SweepStopped(f"{self.url}: cannot be written: {_one_line(error)}") from None

    # Asking

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection to read with. Raises SweepStopped when the database does not answer."""
        try:
            with self.engine.connect() as connection:
                yield connection
        except (DBAPIError, pd.errors.DatabaseError) as error:
            cause = error if isinstance(error, DBAPIError) else error.__cause__ or error
            raise SweepStopped(f"{self.url}: cannot be read: {_one_line(cause)}") from None

    def batch_sizes(self) -> dict[tuple[str, str], int]:
        """(model, compute dtype) -> the smallest batch, in tokens, it was scored with."""
        with self.reading() as connection:
            return batch_sizes(connection)

    def stored_measurements(self) -> set[tuple[str, str]]:
        """(experiment id, protocol id) of everything measured so far."""
        pairs = select(MeasurementRow.experiment, MeasurementRow.protocol).distinct()
        with self.reading() as connection:  # joined here: far fewer long ids to read
            ids = {
                table: dict(connection.execute(select(table.number, table.id)).tuples().all())
                for table in (ExperimentRow, ProtocolRow)
            }
            experiments, protocols = ids[ExperimentRow], ids[ProtocolRow]
            return {(experiments[e], protocols[p]) for e, p in connection.execute(pairs)}

    def failed_experiments(self) -> dict[str, str]:
        """Experiment id -> error, where the newest attempt failed for good."""
        newest = select(func.max(AttemptRow.number)).group_by(AttemptRow.experiment)
        query = (
            select(ExperimentRow.id, AttemptRow.error)
            .join(AttemptRow, AttemptRow.experiment == ExperimentRow.number)
            .where(AttemptRow.number.in_(newest), AttemptRow.status == "failed")
        )
        with self.reading() as connection:
            return {id_: error or "" for id_, error in connection.execute(query)}

    def results(self) -> pd.DataFrame:
        """The flat `results` view: one row a metric, columns as in RESULT_COLUMNS.

        `value` is NaN for a diverged model. `block_size` is missing for whole-tensor blocks.
        """
        with self.reading() as connection:
            frame = pd.read_sql(
                text(f"SELECT {', '.join(RESULT_COLUMNS)} FROM results"), connection
            )
        frame["centered"] = frame["centered"].astype(bool)
        for column in ("bits", "n_items"):
            frame[column] = frame[column].astype(int)
        for column in ("n_params", "exponent_bits", "block_size", "total_bits", "quantized_bits"):
            frame[column] = frame[column].astype("Int64")
        for column in ("value", "stderr", "nominal_bits"):
            frame[column] = frame[column].astype(float)
        return frame

    def attempts(self) -> pd.DataFrame:
        """Every attempt with its experiment's setting, oldest first."""
        query = select(
            ExperimentRow.id.label("experiment_id"),
            ExperimentRow.family,
            ExperimentRow.model,
            ExperimentRow.method,
            ExperimentRow.bits,
            ExperimentRow.data_type,
            ExperimentRow.exponent_bits,
            ExperimentRow.block_size,
            ExperimentRow.outlier_fraction,
            ExperimentRow.centered,
            ExperimentRow.scope,
            *[c for c in AttemptRow.__table__.columns if c.name not in ("experiment",)],
        ).join(AttemptRow, AttemptRow.experiment == ExperimentRow.number)
        with self.reading() as connection:
            return pd.read_sql(query.order_by(AttemptRow.number), connection)

    def item_scores(self, experiment_id: str, task: str, metric: str) -> np.ndarray:
        """Per-item scores, float32 [n]. Raises KeyError when there are none."""
        query = (
            select(ItemScoresRow.scores)
            .join(ExperimentRow, ExperimentRow.number == ItemScoresRow.experiment)
            .join(ProtocolRow, ProtocolRow.number == ItemScoresRow.protocol)
            .where(
                ExperimentRow.id == experiment_id,
                ProtocolRow.task == task,
                ItemScoresRow.metric == metric,
            )
            .order_by(ProtocolRow.number.desc())
        )
        with self.reading() as connection:
            blob = connection.scalars(query).first()
        if blob is None:
            raise KeyError(f"no {metric} scores of {task} for experiment {experiment_id}")
        return unpack_scores(blob)


def missing_protocols(
    experiments: Iterable[Experiment],
    protocols: dict[str, list[Protocol]],
    stored: set[tuple[str, str]],
) -> list[tuple[Experiment, list[Protocol]]]:
    """The experiments that lack measurements, with the ones each lacks.

    `protocols` holds what is asked of each model, by its name.
    """
    keyed = {model: [(p.id, p) for p in asked] for model, asked in protocols.items()}
    missing = []
    for experiment in experiments:
        id_ = experiment.id
        asked = keyed[experiment.model.name]
        lacking = [p for key, p in asked if (id_, key) not in stored]
        if lacking:
            missing.append((experiment, lacking))
    return missing
