"""The one database of a study: what is stored, what is missing, what people query.

Promises: the driver of a sweep is the only writer; a result is recorded in one transaction, whole
or not at all; recording a result again changes nothing; readers never block the writer.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sqlalchemy import Engine, create_engine, event, func, insert, inspect, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DatabaseError, SQLAlchemyError
from sqlalchemy.orm import Session

from orchestrator.errors import InputError
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
    from orchestrator.grid import Experiment, Protocol
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


class Store:
    """Access to one database. Use `Store.create` to write, `Store.open` to read."""

    def __init__(self, url: str, engine: Engine) -> None:
        self.url = url
        self.engine = engine
        self._writer = engine.execution_options(writes=True)

    @classmethod
    def create(cls, url: str) -> Store:
        """Open for writing, making the database and its tables when it is new.

        Raises InputError for a database that is not ours or of another schema version.
        """
        if url.startswith("sqlite:///"):
            Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        store = cls._connect(url)
        if not inspect(store.engine).get_table_names():
            with store._writer.begin() as connection:
                Base.metadata.create_all(connection)
                connection.execute(text(RESULTS_VIEW))
                connection.execute(
                    insert(Meta),
                    [
                        {"key": "application", "value": "kbit"},
                        {"key": "schema_version", "value": str(SCHEMA_VERSION)},
                    ],
                )
        store._check_ours()
        if url.startswith("sqlite"):
            # Readers never wait for the writer, and the writer never for them. Kept by the file.
            raw = store.engine.raw_connection()
            raw.cursor().execute("PRAGMA journal_mode = WAL")
            raw.close()
        return store

    @classmethod
    def open(cls, url: str) -> Store:
        """Open an existing database for reading. Raises InputError when there is none."""
        path = Path(url.removeprefix("sqlite:///"))
        if url.startswith("sqlite:///") and not path.is_file():
            raise InputError(f"{path}: no such database; run a sweep first or give --db")
        store = cls._connect(url)
        store._check_ours()
        return store

    @classmethod
    def _connect(cls, url: str) -> Store:
        try:
            engine = _sqlite_engine(url) if url.startswith("sqlite") else create_engine(url)
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
                if url.startswith("sqlite"):
                    connection.execute(text("SELECT count(*) FROM sqlite_master"))
        except (SQLAlchemyError, ImportError) as error:
            raise InputError(f"{url}: not a usable database: {_one_line(error)}") from None
        return cls(url, engine)

    def _check_ours(self) -> None:
        try:
            with Session(self.engine) as session:
                meta = {row.key: row.value for row in session.scalars(select(Meta))}
        except DatabaseError:
            meta = {}
        if meta.get("application") != "kbit":
            raise InputError(f"{self.url}: not a kbit database; give another --db")
        if meta.get("schema_version") != str(SCHEMA_VERSION):
            raise InputError(
                f"{self.url}: schema version {meta.get('schema_version')}, this kbit writes "
                f"{SCHEMA_VERSION}; use a new --db or the kbit that wrote it"
            )

    # Writing

    def _insert_new(self, session: Session, table: Any, rows: Sequence[dict[str, Any]]) -> None:
        """Insert rows, leaving those whose key exists untouched (a retry may deliver twice)."""
        if not rows:
            return
        dialect = sqlite if self.engine.dialect.name == "sqlite" else postgresql
        session.execute(dialect.insert(table).on_conflict_do_nothing(), list(rows))

    def record(self, result: JobResult) -> None:
        """Store one attempt with its measurements and per-item scores, in one transaction."""
        experiment = result.job.experiment
        with Session(self._writer) as session, session.begin():
            self._insert_new(session, ExperimentRow, [_experiment_row(experiment)])
            row = session.scalars(select(ExperimentRow).filter_by(id=experiment.id)).one()
            if result.bits is not None:
                row.n_params = result.bits.n_params
                row.total_bits = result.bits.total_bits
                row.quantized_bits = result.bits.quantized_bits
                row.nominal_bits = result.bits.nominal_bits
            for protocol, measurement in result.measurements:
                self._insert_new(
                    session,
                    ProtocolRow,
                    [{"id": protocol.id, "task": protocol.task, "settings": protocol.settings}],
                )
                number = session.scalars(select(ProtocolRow.number).filter_by(id=protocol.id)).one()
                key = {"experiment": row.number, "protocol": number}
                self._insert_new(
                    session,
                    MeasurementRow,
                    [
                        {
                            **key,
                            "metric": m.name,
                            "value": _null_for_nan(m.value),
                            "stderr": _null_for_nan(m.stderr),
                            "n_items": m.n_items,
                        }
                        for m in measurement.metrics
                    ],
                )
                self._insert_new(
                    session,
                    ItemScoresRow,
                    [
                        {**key, "metric": name, "scores": pack_scores(scores)}
                        for name, scores in measurement.items.items()
                    ],
                )
            session.add(_attempt_row(result, row.number))

    # Asking

    def stored_measurements(self) -> set[tuple[str, str]]:
        """(experiment id, protocol id) of everything measured so far."""
        query = (
            select(ExperimentRow.id, ProtocolRow.id)
            .select_from(MeasurementRow)
            .join(ExperimentRow, ExperimentRow.number == MeasurementRow.experiment)
            .join(ProtocolRow, ProtocolRow.number == MeasurementRow.protocol)
            .distinct()
        )
        with Session(self.engine) as session:
            return {(e, p) for e, p in session.execute(query)}

    def failed_experiments(self) -> dict[str, str]:
        """Experiment id -> error, where the newest attempt failed for good."""
        newest = select(func.max(AttemptRow.number)).group_by(AttemptRow.experiment)
        query = (
            select(ExperimentRow.id, AttemptRow.error)
            .join(AttemptRow, AttemptRow.experiment == ExperimentRow.number)
            .where(AttemptRow.number.in_(newest), AttemptRow.status == "failed")
        )
        with Session(self.engine) as session:
            return {id_: error or "" for id_, error in session.execute(query)}

    def results(self) -> pd.DataFrame:
        """The flat `results` view: one row a metric, columns as in RESULT_COLUMNS.

        `value` is NaN for a diverged model. `block_size` is missing for whole-tensor blocks.
        """
        with self.engine.connect() as connection:
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
        with self.engine.connect() as connection:
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
        with Session(self.engine) as session:
            blob = session.scalars(query).first()
        if blob is None:
            raise KeyError(f"no {metric} scores of {task} for experiment {experiment_id}")
        return unpack_scores(blob)


def pack_scores(scores: np.ndarray) -> bytes:
    """Compress per-item scores (any float array [n]) to bytes."""
    return zlib.compress(np.ascontiguousarray(scores, dtype="<f4").tobytes(), 6)


def unpack_scores(blob: bytes) -> np.ndarray:
    """The float32 [n] array that `pack_scores` compressed."""
    return np.frombuffer(zlib.decompress(blob), dtype="<f4")


def _null_for_nan(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _experiment_row(experiment: Experiment) -> dict[str, Any]:
    config, model = experiment.config, experiment.model
    return {
        "id": experiment.id,
        "source": "kbit",
        "family": model.family,
        "model": model.name,
        "model_source": model.source,
        "revision": experiment.revision,
        "load_dtype": model.dtype,
        "compute_dtype": experiment.compute_dtype,
        "n_params": model.n_params,
        "method": config.method,
        "bits": config.bits,
        "data_type": config.data_type,
        "exponent_bits": config.exponent_bits,
        "block_size": config.block_size,
        "outlier_fraction": config.outlier_fraction,
        "centered": config.centered,
        "scope": config.scope,
        "bits_per_param": config.bits_per_param,
    }


def _attempt_row(result: JobResult, experiment: int) -> AttemptRow:
    return AttemptRow(
        experiment=experiment,
        status=result.status,
        error=result.error,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        host=result.host,
        device=result.device,
        threads=result.job.threads,
        seconds_load=result.seconds_load,
        seconds_quantize=result.seconds_quantize,
        seconds_score=result.seconds_score,
        peak_memory=result.peak_memory,
        versions=result.versions,
    )


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
