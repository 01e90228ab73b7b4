"""The logarithm of a perplexity is a cross-entropy, which is what curves of a corpus are made from.

A task that has other metrics than losses is no corpus: LAMBADA's perplexity is that of last words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select

from orchestrator.store.recording import insert_new
from orchestrator.store.schema import ExperimentRow, MeasurementRow, ProtocolRow

LOSSES = ("perplexity", "cross_entropy", "bits_per_byte")


def logarithm(measurement: Mapping[str, Any]) -> dict[str, Any]:
    """A perplexity's row as that of the cross-entropy; its error by the delta method."""
    value, stderr = measurement["value"], measurement["stderr"]
    return {
        **measurement,
        "metric": "cross_entropy",
        "value": None if value is None else math.log(value),
        "stderr": stderr / value if value and stderr is not None else None,
    }


def add_logarithms(connection: Connection) -> None:
    """Add the cross-entropies of perplexities that were imported before they counted as such."""
    table = MeasurementRow.__table__
    query = (
        select(table, ProtocolRow.task)
        .join(ExperimentRow, ExperimentRow.number == table.c.experiment)
        .join(ProtocolRow, ProtocolRow.number == table.c.protocol)
        .where(ExperimentRow.source != "kbit")
    )
    imported = [dict(row) for row in connection.execute(query).mappings()]
    graded = {row["task"] for row in imported if row["metric"] not in LOSSES}
    perplexities = [
        {name: value for name, value in row.items() if name != "task"}
        for row in imported
        if row["metric"] == "perplexity" and row["task"] not in graded
    ]
    insert_new(connection, MeasurementRow, [logarithm(row) for row in perplexities])
