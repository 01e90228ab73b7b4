"""What is measured: which experiment by which protocol, the flat rows, the scores of items."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sqlalchemy import ColumnClause, Connection, column, select, table

from orchestrator.store.frames import typed
from orchestrator.store.item_scores import unpack_scores
from orchestrator.store.schema import (
    RESULT_COLUMNS,
    ExperimentRow,
    ItemScoresRow,
    MeasurementRow,
    ProtocolRow,
)

if TYPE_CHECKING:  # reading a database must not wait for torch
    from orchestrator.study.experiment import Asked


def stored_measurements(connection: Connection) -> set[tuple[str, str]]:
    """(experiment id, protocol id) of everything measured so far."""
    pairs = select(MeasurementRow.experiment, MeasurementRow.protocol).distinct()
    ids = {  # joined here: far fewer long ids to read
        table: dict(connection.execute(select(table.number, table.id)).tuples().all())
        for table in (ExperimentRow, ProtocolRow)
    }
    experiments, protocols = ids[ExperimentRow], ids[ProtocolRow]
    return {(experiments[e], protocols[p]) for e, p in connection.execute(pairs)}


def missing_protocols(asked: Iterable[Asked], stored: set[tuple[str, str]]) -> list[Asked]:
    """The experiments that lack measurements, with the protocols each lacks."""
    missing = []
    for experiment, protocols in asked:
        id_ = experiment.id
        lacking = [p for p in protocols if (id_, p.id) not in stored]
        if lacking:
            missing.append((experiment, lacking))
    return missing


def results(connection: Connection) -> pd.DataFrame:
    """The flat `results` view: one row a metric, columns as in RESULT_COLUMNS."""
    columns: list[ColumnClause[Any]] = [column(name) for name in RESULT_COLUMNS]
    return typed(pd.read_sql(select(*columns).select_from(table("results")), connection))


def item_scores(connection: Connection, experiment_id: str, task: str, metric: str) -> np.ndarray:
    """Scores of the items of the newest protocol, float32 [n]. Raises KeyError without any."""
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
    blob = connection.scalars(query).first()
    if blob is None:
        raise KeyError(f"no {metric} scores of {task} for experiment {experiment_id}")
    return unpack_scores(blob)
