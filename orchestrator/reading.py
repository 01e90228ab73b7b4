"""Bulk reads for analyses: large databases in about a second, without loading torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
from sqlalchemy import and_, or_, select

from orchestrator.item_scores import unpack_scores
from orchestrator.schema import (
    RESULT_COLUMNS,
    ExperimentRow,
    ItemScoresRow,
    MeasurementRow,
    ProtocolRow,
)
from orchestrator.store import Store

_IDS_A_QUERY = 500  # SQLite allows 32,766 parameters, other databases fewer


def read_results(
    store: Store, wanted: Collection[tuple[str | None, str]] | None = None
) -> pd.DataFrame:
    """The rows of the flat view with one of the `wanted` (task, metric); None is any task, or all.

    Columns and dtypes are those of `Store.results`. The tables are joined here, each experiment's
    settings read once: on a large database several times faster than the view.
    """
    measurements = select(MeasurementRow.__table__)
    with store.reading() as connection:
        protocols = pd.read_sql(select(ProtocolRow.number, ProtocolRow.task), connection)
        if wanted is not None:
            measurements = measurements.where(or_(*_conditions(protocols, wanted)))
        rows = pd.read_sql(measurements, connection)
        settings = [c for c in ExperimentRow.__table__.columns if c.name in RESULT_COLUMNS]
        query = select(ExperimentRow.number, ExperimentRow.id.label("experiment_id"), *settings)
        experiments = pd.read_sql(query, connection)
    for column in ("n_params", "exponent_bits", "block_size", "total_bits", "quantized_bits"):
        experiments[column] = experiments[column].astype("Int64")
    experiments["nominal_bits"] = experiments["nominal_bits"].astype(float)
    experiments["centered"] = experiments["centered"].astype(bool)
    place = pd.Index(experiments["number"]).get_indexer(rows["experiment"])
    frame = experiments.take(place).reset_index(drop=True)
    frame["task"] = protocols.set_index("number")["task"].reindex(rows["protocol"]).to_numpy()
    frame["metric"] = rows["metric"]
    frame["value"], frame["stderr"] = rows["value"].astype(float), rows["stderr"].astype(float)
    frame["n_items"] = rows["n_items"].astype(int)
    return frame[list(RESULT_COLUMNS)]


def _conditions(protocols: pd.DataFrame, wanted: Collection[tuple[str | None, str]]) -> list:
    by_metric: dict[str, set[str | None]] = {}
    for task, metric in wanted:
        by_metric.setdefault(metric, set()).add(task)
    conditions = []
    for metric, tasks in by_metric.items():
        same = MeasurementRow.metric == metric
        if None not in tasks:
            numbers = protocols.loc[protocols["task"].isin(tasks), "number"].tolist()
            same = and_(same, MeasurementRow.protocol.in_(numbers))
        conditions.append(same)
    return conditions


def read_item_scores(
    store: Store, experiment_ids: Sequence[str], task: str, metric: str
) -> dict[str, np.ndarray]:
    """Per-item scores, float32 [n], of those of the experiments that have any, by experiment id.

    An experiment scored with several limits gives the number of items that most of them share.
    """
    with store.reading() as connection:
        numbers = connection.execute(
            select(ProtocolRow.number).where(ProtocolRow.task == task)
        ).scalars()
        protocols = list(numbers)
        found: list[tuple[str, np.ndarray]] = []
        for start in range(0, len(experiment_ids), _IDS_A_QUERY):
            ids = list(experiment_ids[start : start + _IDS_A_QUERY])
            query = (
                select(ExperimentRow.id, ItemScoresRow.scores)
                .join(ItemScoresRow, ExperimentRow.number == ItemScoresRow.experiment)
                .where(
                    ExperimentRow.id.in_(ids),
                    ItemScoresRow.protocol.in_(protocols),
                    ItemScoresRow.metric == metric,
                )
            )
            found += [(key, unpack_scores(blob)) for key, blob in connection.execute(query)]
    common = Counter(len(scores) for _, scores in found)
    found.sort(key=lambda pair: (common[len(pair[1])], len(pair[1])))
    return dict(found)


def model_sources(store: Store) -> dict[str, str]:
    """Model name -> the directory or hub id that its newest experiment was loaded from."""
    query = select(ExperimentRow.model, ExperimentRow.model_source).order_by(ExperimentRow.number)
    with store.reading() as connection:
        return {model: source for model, source in connection.execute(query.distinct())}
