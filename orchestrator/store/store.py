"""The one database of a study: what is stored, what is missing, what people query.

Promises: the driver of a sweep is the only writer; a result is recorded in one transaction, whole
or not at all; recording a result again changes nothing; readers never block the writer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd
from sqlalchemy import Connection, Engine, inspect
from sqlalchemy.exc import DBAPIError

from orchestrator.errors import InputError, Rescued, SweepStopped
from orchestrator.outputs import folder_of_database
from orchestrator.store import measured
from orchestrator.store.batch_sizes import batch_sizes, discard_larger
from orchestrator.store.engine import (
    check_columns,
    connect,
    connect_to_read,
    copy_in_memory,
    let_readers_in,
    make_tables,
    one_line,
    schema_version,
    sqlite_file,
)
from orchestrator.store.guard import DatabaseLost
from orchestrator.store.ledger import attempts, failures
from orchestrator.store.lock import serialize_setup
from orchestrator.store.migrate import migrate
from orchestrator.store.recent import Recent
from orchestrator.store.recording import write_results
from orchestrator.store.revisions import note_revision, stored_revision
from orchestrator.store.schema import SCHEMA_VERSION
from orchestrator.store.writing import Writer
from orchestrator.study.outcome import Failure, Stage

if TYPE_CHECKING:  # reading a database must not wait for torch
    from orchestrator.study.experiment import Asked
    from orchestrator.study.identity import Identified
    from orchestrator.study.job import JobResult

_Value = TypeVar("_Value")


class Store:
    """Access to one database. Use `Store.create` to write, `Store.open` to read."""

    def __init__(self, engine: Engine) -> None:
        self.url = engine.url.render_as_string(hide_password=True)
        self.engine = engine
        self._writer: Writer | None = None  # of one made by `create`
        self._recent = Recent()

    @classmethod
    def create(cls, url: str) -> Store:
        """Open for writing; make the tables of a new database, bring an older one up to date.

        Raises InputError for a database that is not ours, of a newer schema, or not writable.
        """
        if file := sqlite_file(url):
            folder_of_database(file)
        store = cls(connect(url))
        try:
            with store.engine.execution_options(writes=True).begin() as connection:
                serialize_setup(connection)
                if not inspect(connection).get_table_names():
                    make_tables(connection)
                elif (version := schema_version(store.engine, store.url)) < SCHEMA_VERSION:
                    migrate(connection, version)
            check_columns(store.engine, store.url)
            let_readers_in(store.engine)
            store._writer = Writer(store.engine)
        except (DBAPIError, sqlite3.Error) as error:
            raise InputError(f"{store.url}: cannot be written: {one_line(error)}") from None
        return store

    @classmethod
    def open(cls, url: str) -> Store:
        """Open an existing database for reading; an older one of SQLite as a copy in memory that is
        brought up to date. Raises InputError when there is none."""
        store = cls(connect_to_read(url))
        if (version := schema_version(store.engine, store.url)) < SCHEMA_VERSION:
            if store.engine.dialect.name == "sqlite":
                store.engine = copy_in_memory(store.engine)
                with store.engine.execution_options(writes=True).begin() as connection:
                    migrate(connection, version)
                return store
            raise InputError(
                f"{store.url}: schema version {version} is older than {SCHEMA_VERSION}; start its "
                "sweep (or import) again to bring it up to date"
            )
        check_columns(store.engine, store.url)
        return store

    def close(self) -> None:
        """Let go of the database: of SQLite one file remains, which can be read anywhere."""
        self.engine.dispose()
        if self._writer is not None:
            self._writer.close()

    # Writing

    @property
    def writer(self) -> Writer:
        assert self._writer is not None, "opened to be read"
        return self._writer

    def lock(self) -> AbstractContextManager[None]:
        """Hold the right to write: one sweep at a time. Raises InputError when another has it."""
        return self.writer.lock()

    def record(self, *results: JobResult) -> None:
        """Store attempts with their measurements and per-item scores, in one transaction.

        Raises SweepStopped when the database does not take it (full disk, read-only, locked for
        longer than BUSY_SECONDS): nothing of these results is stored then, all earlier ones are.
        Where the file itself is gone they are in a rescue file, which the error names.
        """
        if results:
            self._write(lambda connection: write_results(connection, results), results)
            self._recent.add(results)

    def revision_of(self, model: Identified) -> str:
        """What the ids of a model's rows here bear (see store/revisions.py), noted from now on
        where this store may write."""
        if model.earlier is not None and self._writer is not None:
            self._write(lambda connection: note_revision(connection, model))
        with self.reading() as connection:
            return stored_revision(connection, model)

    def discard_larger_batches(self, stage: Stage, asked: Mapping[str, Collection[str]]) -> int:
        """Discard scores from larger batches than their model could hold later; the number of
        experiments (see orchestrator.store.batch_sizes). Raises SweepStopped as `record` does."""
        return self._write(lambda connection: discard_larger(connection, stage, asked))

    def _write(
        self, action: Callable[[Connection], _Value], results: Sequence[JobResult] = ()
    ) -> _Value:
        try:
            with self.writer.transaction() as connection:
                return action(connection)
        except DatabaseLost as lost:
            raise self._rescued(lost, results) from None
        except DBAPIError as error:
            raise SweepStopped(
                f"{self.url}: cannot be written: {one_line(error)}; results up to here are stored"
            ) from None

    def _rescued(self, lost: DatabaseLost, results: Sequence[JobResult] = ()) -> SweepStopped:
        """Save what can be saved of an SQLite database; the error that says where it is."""
        guard = self.writer.guard
        assert guard is not None
        try:
            path = guard.rescue_file()
            whole = not lost.content_gone and guard.copy_to(path)
            left = () if whole and lost.committed else tuple(results)
            if not whole:
                left = (*self._recent.results(), *left)
            if left or not whole:
                rescue = Store.create(f"sqlite:///{path}")
                rescue.record(*left)
                rescue.close()
            guard.leave(lost.content_gone)
        except (OSError, InputError, SweepStopped) as error:
            return Rescued(f"{self.url}: {lost} while in use, and nothing is saved: {error}")
        saved = "everything stored so far is" if whole else f"the last {len(left)} results are"
        return Rescued(
            f"{self.url}: {lost} while in use; {saved} saved in {path}: move it to {guard.path}, "
            "and the same command goes on from there"
        )

    # Asking

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection to read with. Raises SweepStopped when the database does not answer."""
        try:
            if self._writer is not None:
                self._writer.check()
            with self.engine.connect() as connection:
                yield connection
        except DatabaseLost as lost:
            raise self._rescued(lost) from None
        except (DBAPIError, pd.errors.DatabaseError) as error:
            cause = error if isinstance(error, DBAPIError) else error.__cause__ or error
            raise SweepStopped(f"{self.url}: cannot be read: {one_line(cause)}") from None

    def batch_sizes(self) -> dict[tuple[str, str], int]:
        """(model, compute dtype) -> the smallest batch, in tokens, it was scored with."""
        with self.reading() as connection:
            return batch_sizes(connection)

    def stored_measurements(self) -> set[tuple[str, str]]:
        """(experiment id, protocol id) of everything measured so far."""
        with self.reading() as connection:
            return measured.stored_measurements(connection)

    def failures(self) -> dict[tuple[str, str], Failure]:
        """(experiment id, protocol id) -> the newest failure, of what was not measured since."""
        with self.reading() as connection:
            return failures(connection)

    def failures_of(self, asked: Iterable[Asked]) -> dict[str, Failure]:
        """Experiment id -> the last of its failures, of those asked for."""
        known = self.failures()
        pairs = [(experiment.id, p.id) for experiment, protocols in asked for p in protocols]
        return {id_: known[id_, protocol] for id_, protocol in pairs if (id_, protocol) in known}

    def failed_experiments(self) -> dict[str, str]:
        """Experiment id -> its newest error, where a protocol failed and was not measured since."""
        return {id_: failure.error for (id_, _), failure in self.failures().items()}

    def results(self) -> pd.DataFrame:
        """The flat `results` view: one row a metric, columns as in RESULT_COLUMNS.

        `value` is NaN for a diverged model. `block_size` is missing for whole-tensor blocks.
        """
        with self.reading() as connection:
            return measured.results(connection)

    def attempts(self) -> pd.DataFrame:
        """Every attempt with its experiment's setting, oldest first.

        `unresolved`: it failed, and what it left without scores has none yet, nor has its model
        been read from other files since.
        """
        with self.reading() as connection:
            return attempts(connection)

    def item_scores(self, experiment_id: str, task: str, metric: str) -> np.ndarray:
        """Per-item scores, float32 [n]. Raises KeyError when there are none."""
        with self.reading() as connection:
            return measured.item_scores(connection, experiment_id, task, metric)
