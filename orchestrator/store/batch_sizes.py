"""One batch layout a model: where memory ran out once, all its scores come from small batches.

16-bit arithmetic depends on how rows share batches, so that precisions of a model are compared on
the same batches only: the largest that every worker could hold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, delete, or_, select, update

from orchestrator.store.schema import (
    AttemptRow,
    ExperimentRow,
    ItemScoresRow,
    MeasurementRow,
    ProtocolRow,
)
from orchestrator.study.outcome import Stage, Status

Scored = tuple[str, str]  # model, compute dtype


@dataclass(frozen=True)
class _Scoring:
    """An attempt whose scores are stored, and the tokens a batch of it had at most."""

    attempt: int
    stage: Stage
    experiment: int
    experiment_id: str
    model: Scored
    size: int


def batch_sizes(connection: Connection) -> dict[Scored, int]:
    """The smallest batch, in tokens, that each model was scored with."""
    return _smallest(_scorings(connection))


def discard_larger(
    connection: Connection, stage: Stage, asked: Mapping[str, Collection[str]]
) -> int:
    """Discard what a stage of a sweep scored in larger batches than a model could hold later on.

    `asked`: experiment id -> ids of the protocols that the sweep asks for and will score again; all
    else stays. Returns the number of experiments that now lack measurements.
    """
    scorings = _scorings(connection)
    smallest = _smallest(scorings)
    larger = [
        scoring
        for scoring in scorings
        if scoring.size > smallest[scoring.model]
        and scoring.stage == stage
        and scoring.experiment_id in asked
    ]
    if not larger:
        return 0
    query = select(ProtocolRow.id, ProtocolRow.number)
    known = connection.execute(query).tuples().all()
    for scoring in larger:
        again = asked[scoring.experiment_id]
        again_numbers = {number for id_, number in known if id_ in again}
        theirs = MeasurementRow.experiment == scoring.experiment
        by = or_(MeasurementRow.attempt == scoring.attempt, MeasurementRow.attempt.is_(None))
        rows = select(MeasurementRow.protocol).where(theirs, by).distinct()
        numbers = [number for number in connection.scalars(rows) if number in again_numbers]
        for table in (MeasurementRow, ItemScoresRow):
            scores = table.experiment == scoring.experiment, table.protocol.in_(numbers)
            connection.execute(delete(table).where(*scores))
        attempt = update(AttemptRow).where(AttemptRow.number == scoring.attempt)
        connection.execute(attempt.values(status=Status.OUTGROWN))
    return len({scoring.experiment for scoring in larger})


def _smallest(scorings: Iterable[_Scoring]) -> dict[Scored, int]:
    smallest: dict[Scored, int] = {}
    for scoring in scorings:
        smallest[scoring.model] = min(scoring.size, smallest.get(scoring.model, scoring.size))
    return smallest


def _scorings(connection: Connection) -> list[_Scoring]:
    query = (
        select(
            AttemptRow.number,
            AttemptRow.stage,
            AttemptRow.experiment,
            ExperimentRow.id,
            ExperimentRow.model,
            ExperimentRow.compute_dtype,
            AttemptRow.tokens_per_batch,
        )
        .join(ExperimentRow, AttemptRow.experiment == ExperimentRow.number)
        .where(AttemptRow.status == Status.DONE)
    )
    return [
        _Scoring(number, stage, experiment, id_, (model, dtype), size)
        for number, stage, experiment, id_, model, dtype, size in connection.execute(query)
        if size is not None
    ]
