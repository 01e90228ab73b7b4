"""The ledger of sweeps: every attempt, and which failures are not made up for since."""

from __future__ import annotations

import pandas as pd
from sqlalchemy import Connection, select
from sqlalchemy.orm import aliased

from orchestrator.store.frames import typed
from orchestrator.store.schema import (
    AttemptRow,
    ExperimentRow,
    FailureRow,
    MeasurementRow,
    ProtocolRow,
)
from orchestrator.study.outcome import Cause, Failure, Status
from quantizers.setting import SETTING_COLUMNS

# Of a failure joined with its attempt: what failed has scores by now.
_MEASURED_SINCE = (
    select(MeasurementRow.experiment)
    .where(
        MeasurementRow.experiment == AttemptRow.experiment,
        MeasurementRow.protocol == FailureRow.protocol,
    )
    .exists()
)

# Of a failure joined with its attempt: it was due to the model's files, others of which have served
# a later attempt. What could not be read has an id of its own, of which no score comes.
_later, _broken, _served = aliased(AttemptRow), aliased(ExperimentRow), aliased(ExperimentRow)
_MENDED_SINCE = (FailureRow.cause == Cause.MODEL) & (
    select(_later.number)
    .join(_served, _served.number == _later.experiment)
    .join(_broken, _broken.number == AttemptRow.experiment)
    .where(
        _later.number > AttemptRow.number,
        _later.status == Status.DONE,
        _served.family == _broken.family,
        _served.model == _broken.model,
        _served.revision != _broken.revision,
    )
    .correlate(AttemptRow)
    .exists()
)


def failures(connection: Connection) -> dict[tuple[str, str], Failure]:
    """(experiment id, protocol id) -> the newest failure, of what was not measured since."""
    query = (
        select(ExperimentRow.id, ProtocolRow.id, FailureRow.cause, FailureRow.error)
        .join(AttemptRow, AttemptRow.number == FailureRow.attempt)
        .join(ExperimentRow, ExperimentRow.number == AttemptRow.experiment)
        .join(ProtocolRow, ProtocolRow.number == FailureRow.protocol)
        .where(~_MEASURED_SINCE)
        .order_by(FailureRow.attempt)
    )
    rows = connection.execute(query).tuples().all()
    return {(id_, protocol): Failure(cause, error) for id_, protocol, cause, error in rows}


def attempts(connection: Connection) -> pd.DataFrame:
    """Every attempt with its experiment's setting, oldest first; see Store.attempts."""
    query = select(
        ExperimentRow.id.label("experiment_id"),
        ExperimentRow.family,
        ExperimentRow.model,
        *[ExperimentRow.__table__.c[name] for name in SETTING_COLUMNS],
        *[c for c in AttemptRow.__table__.columns if c.name not in ("experiment",)],
    ).join(AttemptRow, AttemptRow.experiment == ExperimentRow.number)
    known = select(FailureRow.attempt).distinct()
    left = known.join(AttemptRow, AttemptRow.number == FailureRow.attempt)
    frame = typed(pd.read_sql(query.order_by(AttemptRow.number), connection))
    explained = set(connection.scalars(known))
    unresolved = set(connection.scalars(left.where(~_MEASURED_SINCE, ~_MENDED_SINCE)))
    # An older version did not keep what failed: there the newest attempt decides.
    newest = ~frame["experiment_id"].duplicated(keep="last") & ~frame["number"].isin(explained)
    failed = frame["status"] == Status.FAILED
    frame["unresolved"] = frame["number"].isin(unresolved) | (failed & newest)
    return frame
