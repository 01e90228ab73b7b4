"""One batch layout a model: where memory ran out once, all its scores come from small batches.

16-bit arithmetic depends on how rows share batches, so that precisions of a model are compared on
the same batches only: the largest that every worker could hold.
"""

from __future__ import annotations

from sqlalchemy import Connection, delete, select, update

from orchestrator.schema import AttemptRow, ExperimentRow, ItemScoresRow, MeasurementRow

OUTGROWN = "outgrown"  # an attempt whose scores were discarded for those in smaller batches
Scored = tuple[str, str]  # model, compute dtype


def batch_sizes(connection: Connection) -> dict[Scored, int]:
    """The smallest batch, in tokens, that each model was scored with."""
    smallest: dict[Scored, int] = {}
    for model, _, size in _scorings(connection):
        smallest[model] = min(size, smallest.get(model, size))
    return smallest


def discard_larger(connection: Connection) -> int:
    """Discard what was scored in larger batches than its model could hold later on.

    Returns the number of experiments, which then lack their measurements. Their attempts stay.
    """
    smallest = batch_sizes(connection)
    numbers = sorted({n for model, n, size in _scorings(connection) if size > smallest[model]})
    for start in range(0, len(numbers), 500):  # databases limit their parameters
        part = numbers[start : start + 500]
        for table in (MeasurementRow, ItemScoresRow):
            connection.execute(delete(table).where(table.experiment.in_(part)))
        attempts = update(AttemptRow).where(
            AttemptRow.experiment.in_(part), AttemptRow.status == "done"
        )
        connection.execute(attempts.values(status=OUTGROWN))
    return len(numbers)


def _scorings(connection: Connection) -> list[tuple[Scored, int, int]]:
    """((model, dtype), experiment's number, tokens a batch) of attempts whose scores are stored."""
    query = (
        select(
            ExperimentRow.model,
            ExperimentRow.compute_dtype,
            AttemptRow.experiment,
            AttemptRow.versions,
        )
        .join(ExperimentRow, AttemptRow.experiment == ExperimentRow.number)
        .where(AttemptRow.status == "done")
    )
    return [
        ((model, dtype), experiment, int(versions["tokens_per_batch"]))
        for model, dtype, experiment, versions in connection.execute(query)
        if versions.get("tokens_per_batch", "").isdigit()
    ]
