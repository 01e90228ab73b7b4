"""What a database calls a model whose rows an earlier version stored.

A branch of the hub then stood for whatever commit it had, and a large local file for a sample of
its bytes. Such rows are those of the first exact revision that asks for them, and of no other:
it is noted, so that a branch that moves, or a change between the samples, is another model.
"""

from __future__ import annotations

from sqlalchemy import Connection, select

from orchestrator.store.recording import insert_new
from orchestrator.store.schema import ExperimentRow, Meta
from orchestrator.study.experiment import content_id
from orchestrator.study.identity import Identified


def stored_revision(connection: Connection, model: Identified) -> str:
    """The revision of a model's rows: its own, or the earlier one where those rows are its."""
    if model.earlier is None:
        return model.revision
    noted = connection.scalar(select(Meta.value).where(Meta.key == _key(model)))
    if noted is not None:
        return model.earlier if noted == model.revision else model.revision
    rows = select(ExperimentRow.number).where(
        ExperimentRow.model == model.entry.name, ExperimentRow.revision == model.earlier
    )
    return model.revision if connection.scalar(rows.limit(1)) is None else model.earlier


def note_revision(connection: Connection, model: Identified) -> None:
    """Note whose the rows under an earlier revision are from now on."""
    if stored_revision(connection, model) == model.earlier:
        insert_new(connection, Meta, [{"key": _key(model), "value": model.revision}])


def _key(model: Identified) -> str:
    return "revision " + content_id([model.entry.name, model.earlier])[:32]
