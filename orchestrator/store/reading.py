"""Bulk reads for analyses: large databases in about a second, without loading torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import Connection, and_, func, or_, select

from orchestrator.store.frames import typed
from orchestrator.store.item_scores import unpack_scores
from orchestrator.store.schema import (
    PROTOCOL_COLUMNS,
    RESULT_COLUMNS,
    AttemptRow,
    ExperimentRow,
    ItemScoresRow,
    MeasurementRow,
    ProtocolRow,
    SiteRecordRow,
)
from orchestrator.store.store import Store
from orchestrator.study.outcome import Stage, Status
from quantizers.setting import SETTING_COLUMNS

_ORDER = ("family", "n_params", "model", "bits", "data_type", "experiment_id")
_IDS_A_QUERY = 500  # SQLite allows 32,766 parameters, other databases fewer


def read_results(
    store: Store, wanted: Collection[tuple[str | None, str]] | None = None
) -> pd.DataFrame:
    """The rows of the flat view with one of the `wanted` (task, metric); None is any task, or all.

    Columns and dtypes are those of `Store.results`. Experiments lie by family, size and setting, in
    whatever order they were done: an answer does not depend on who was first. The tables are joined
    here, each experiment's settings read once: on a large database several times faster than the
    view.
    """
    measurements = select(MeasurementRow.__table__)
    with store.reading() as connection:
        columns = [ProtocolRow.__table__.c[name] for name in ("number", "task", *PROTOCOL_COLUMNS)]
        query = select(ProtocolRow.id.label("protocol"), *columns)
        protocols = pd.read_sql(query, connection)
        if wanted is not None:
            measurements = measurements.where(or_(*_conditions(protocols, wanted)))
        rows = pd.read_sql(measurements, connection)
        settings = [c for c in ExperimentRow.__table__.columns if c.name in RESULT_COLUMNS]
        query = select(ExperimentRow.number, ExperimentRow.id.label("experiment_id"), *settings)
        experiments = pd.read_sql(query, connection)
    experiments, protocols = typed(experiments), typed(protocols)
    experiments = experiments.sort_values(list(_ORDER), ignore_index=True)
    place = pd.Index(experiments["number"]).get_indexer(rows["experiment"])
    order = np.argsort(place, kind="stable")
    rows, place = rows.iloc[order].reset_index(drop=True), place[order]
    frame = experiments.take(place).reset_index(drop=True)
    place = pd.Index(protocols["number"]).get_indexer(rows["protocol"])
    for column in ("task", "protocol", *PROTOCOL_COLUMNS):
        frame[column] = protocols[column].take(place).array
    frame["metric"] = rows["metric"]
    for column in ("value", "stderr", "n_items"):
        frame[column] = rows[column]
    return typed(frame[list(RESULT_COLUMNS)])


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
    store: Store,
    experiment_ids: Sequence[str],
    task: str,
    metric: str,
    protocol: str | None = None,
) -> dict[str, np.ndarray]:
    """Per-item scores, float32 [n], of those of the experiments that have any, by experiment id.

    All scores of a model are of one protocol (same data, context and limit), so that they can be
    compared item by item: the one with this id (as in the view), else the one that most of the
    model's experiments have, the newest of equals.
    """
    found: dict[str, np.ndarray] = {}
    with store.reading() as connection:
        one_of = select(ProtocolRow.number).where(ProtocolRow.task == task)
        if protocol is not None:
            one_of = one_of.where(ProtocolRow.id == protocol)
        protocols = list(connection.scalars(one_of))
        chosen = _commonest(connection, protocols, metric)
        for start in range(0, len(experiment_ids), _IDS_A_QUERY):
            ids = list(experiment_ids[start : start + _IDS_A_QUERY])
            query = (
                select(
                    ExperimentRow.id,
                    ExperimentRow.model,
                    ItemScoresRow.protocol,
                    ItemScoresRow.scores,
                )
                .join(ItemScoresRow, ExperimentRow.number == ItemScoresRow.experiment)
                .where(
                    ExperimentRow.id.in_(ids),
                    ItemScoresRow.protocol.in_(protocols),
                    ItemScoresRow.metric == metric,
                )
            )
            for id_, model, number, blob in connection.execute(query):
                if chosen.get(model, number) == number:
                    found[id_] = unpack_scores(blob)
    return found


def _commonest(connection: Connection, protocols: list[int], metric: str) -> dict[str, int]:
    """Model -> the protocol that most of its experiments have scores of; {} for one protocol."""
    if len(protocols) < 2:
        return {}
    count = func.count()
    query = (
        select(ExperimentRow.model, ItemScoresRow.protocol)
        .join(ItemScoresRow, ExperimentRow.number == ItemScoresRow.experiment)
        .where(ItemScoresRow.protocol.in_(protocols), ItemScoresRow.metric == metric)
        .group_by(ExperimentRow.model, ItemScoresRow.protocol)
        .order_by(count, ItemScoresRow.protocol)
    )
    return {model: protocol for model, protocol in connection.execute(query)}  # the last stays


def model_sources(store: Store) -> dict[str, str]:
    """Model name -> the directory or hub id that its newest experiment was loaded from."""
    query = select(ExperimentRow.model, ExperimentRow.model_source).order_by(ExperimentRow.number)
    with store.reading() as connection:
        return {model: source for model, source in connection.execute(query.distinct())}


def protocol_settings(store: Store) -> dict[str, dict[str, Any]]:
    """Protocol id -> what it says of how something was measured (see evaluation/protocols.py)."""
    with store.reading() as connection:
        found = connection.execute(select(ProtocolRow.id, ProtocolRow.settings))
        return {id_: settings for id_, settings in found.tuples()}


def experiment_origins(store: Store) -> pd.DataFrame:
    """What experiments of one model and setting may differ in: `revision` of the weights,
    `load_dtype` and `compute_dtype`, by `experiment_id`."""
    names = ("revision", "load_dtype", "compute_dtype")
    columns = [ExperimentRow.__table__.c[name] for name in names]
    with store.reading() as connection:
        frame = pd.read_sql(select(ExperimentRow.id.label("experiment_id"), *columns), connection)
    return frame.set_index("experiment_id")


def screened_axes(store: Store) -> dict[str, set[str]]:
    """Of each family of which an adaptive sweep dropped experiments that were not scored since: the
    axes of size that it asked about. On others, what would win may be missing."""
    dropped = store.attempts()
    dropped = dropped[dropped["stage"] != Stage.COMMAND].groupby("experiment_id").tail(1)
    dropped = dropped[dropped["status"] == Status.DROPPED]
    return {
        str(family): set.intersection(*[set((axes or "").split(",")) for axes in asked.unique()])
        for family, asked in dropped.groupby("family")["axes"]
    }


def mark_screened(results: pd.DataFrame, store: Store) -> pd.DataFrame:
    """`results` with a column `screened_axes` where something was dropped: those of its family, as
    "nominal,total"; missing for other families."""
    screened = {name: ",".join(sorted(axes)) for name, axes in screened_axes(store).items()}
    if not screened:
        return results
    ours = results["source"] == "kbit"
    return results.assign(screened_axes=results["family"].map(screened).where(ours))


def diverged_experiments(store: Store) -> int:
    """How many of our experiments have a score that is not a number."""
    query = (
        select(func.count(MeasurementRow.experiment.distinct()))
        .join(ExperimentRow, ExperimentRow.number == MeasurementRow.experiment)
        .where(MeasurementRow.value.is_(None), ExperimentRow.source == "kbit")
    )
    with store.reading() as connection:
        return connection.scalar(query) or 0


def read_site_records(store: Store, quantities: Collection[str]) -> pd.DataFrame:
    """What the newest attempt of each experiment that recorded any found of single matrices: one
    row each, with `experiment_id`, `model`, the setting's columns, `site`, `quantity`, `value`
    (NaN: none) and `label` (words)."""
    record = SiteRecordRow
    query = (
        select(
            ExperimentRow.id.label("experiment_id"),
            ExperimentRow.model,
            *[ExperimentRow.__table__.c[name] for name in SETTING_COLUMNS],
            *[record.attempt, record.site, record.quantity, record.value, record.label],
        )
        .join(AttemptRow, AttemptRow.number == record.attempt)
        .join(ExperimentRow, ExperimentRow.number == AttemptRow.experiment)
        .where(record.quantity.in_(quantities))
        .order_by(record.attempt)
    )
    with store.reading() as connection:
        rows = typed(pd.read_sql(query, connection))
    newest = rows.groupby("experiment_id")["attempt"].transform("max")
    return rows[rows["attempt"] == newest].drop(columns="attempt")


def imported_counts(store: Store) -> pd.DataFrame:
    """What was imported: `experiments` and `models` of each source, family and bits."""
    columns = (ExperimentRow.source, ExperimentRow.family, ExperimentRow.bits)
    query = (
        select(
            *columns,
            func.count(ExperimentRow.model.distinct()).label("models"),
            func.count().label("experiments"),
        )
        .where(ExperimentRow.source != "kbit")
        .group_by(*columns)
        .order_by(*columns)
    )
    with store.reading() as connection:
        return typed(pd.read_sql(query, connection))
