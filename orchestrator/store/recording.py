"""Rows out of results: what one transaction writes. In bulk, since quick jobs come in hundreds."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, case, func, insert, select, update

from orchestrator.store.item_scores import pack_scores
from orchestrator.store.schema import (
    PROTOCOL_COLUMNS,
    RUN_COLUMNS,
    AttemptRow,
    ExperimentRow,
    FailureRow,
    ItemScoresRow,
    MeasurementRow,
    ProtocolRow,
    SiteRecordRow,
)
from orchestrator.study.job import unmeasured

if TYPE_CHECKING:
    from orchestrator.study.experiment import Experiment, Protocol
    from orchestrator.study.job import JobResult

# Known only once a model was quantized: a later attempt fills in what an earlier one lacked.
_SIZES = ("n_params", "total_bits", "quantized_bits", "nominal_bits")


def write_results(connection: Connection, results: Sequence[JobResult]) -> None:
    """Write attempts with their measurements and per-item scores; what exists stays as it is."""
    started = time.perf_counter()
    rows = [_experiment_row(result) for result in results]
    upsert = _dialect(connection).insert(ExperimentRow.__table__)
    columns = ExperimentRow.__table__.c
    filled: dict[str, Any] = {c: func.coalesce(columns[c], upsert.excluded[c]) for c in _SIZES}
    # A failed attempt has the size that models.yaml declares; what was counted takes its place.
    counted = upsert.excluded.total_bits.is_not(None)
    filled["n_params"] = case((counted, upsert.excluded.n_params), else_=filled["n_params"])
    # Of rows and groups it depends on the model's matrices.
    per_param = columns.bits_per_param
    filled["bits_per_param"] = case((counted, upsert.excluded.bits_per_param), else_=per_param)
    connection.execute(upsert.on_conflict_do_update(index_elements=["id"], set_=filled), rows)
    experiments = row_numbers(connection, ExperimentRow, {row["id"] for row in rows})

    protocols = {p.id: p for r in results for p, _ in r.measurements}
    protocols |= {p.id: p for r in results if unmeasured(r) for p in r.job.protocols}
    insert_new(connection, ProtocolRow, [_protocol_row(p) for p in protocols.values()])
    numbers = row_numbers(connection, ProtocolRow, set(protocols))

    attempts = []
    for result in results:
        row = _attempt_row(result, experiments[result.job.experiment.id])
        made = connection.execute(insert(AttemptRow).values(row)).inserted_primary_key
        attempts.append(made[0] if made else None)
    metrics, scores, failures, sites = [], [], [], []
    for result, attempt in zip(results, attempts, strict=True):
        failures += [
            {
                "attempt": attempt,
                "protocol": numbers[id_],
                "cause": failure.cause,
                "error": failure.error,
            }
            for id_, failure in unmeasured(result).items()
        ]
        sites += _site_rows(result, attempt)
        for protocol, measurement in result.measurements:
            key = {
                "experiment": experiments[result.job.experiment.id],
                "protocol": numbers[protocol.id],
            }
            metrics += [
                {
                    **key,
                    "metric": m.name,
                    "value": null_for_nan(m.value),
                    "stderr": null_for_nan(m.stderr),
                    "n_items": m.n_items,
                    "attempt": attempt,
                }
                for m in measurement.metrics
            ]
            scores += [
                {**key, "metric": name, "scores": pack_scores(values)}
                for name, values in measurement.items.items()
            ]
    insert_new(connection, MeasurementRow, metrics)
    insert_new(connection, ItemScoresRow, scores)
    insert_new(connection, FailureRow, failures)
    insert_new(connection, SiteRecordRow, sites)
    seconds = (time.perf_counter() - started) / len(results)  # all but the commit
    cost = update(AttemptRow).where(AttemptRow.number.in_(attempts))
    connection.execute(cost.values(seconds_store=seconds))


def _dialect(connection: Connection) -> Any:
    from sqlalchemy.dialects import postgresql, sqlite  # slow to import, and readers need neither

    return sqlite if connection.dialect.name == "sqlite" else postgresql


def insert_new(connection: Connection, table: Any, rows: list[dict[str, Any]]) -> None:
    """Insert rows, leaving those whose key exists untouched (a retry may deliver twice)."""
    if rows:
        statement = _dialect(connection).insert(table.__table__).on_conflict_do_nothing()
        connection.execute(statement, rows)


def row_numbers(connection: Connection, table: Any, ids: set[str]) -> dict[str, int]:
    """Number of each row with one of `ids`, a few at a time: databases limit their parameters."""
    wanted = sorted(ids)
    numbers: dict[str, int] = {}
    for start in range(0, len(wanted), 500):
        part = wanted[start : start + 500]
        query = select(table.id, table.number).where(table.id.in_(part))
        numbers |= {id_: number for id_, number in connection.execute(query)}
    return numbers


def _experiment_row(result: JobResult) -> dict[str, Any]:
    experiment, bits = result.job.experiment, result.bits
    return setting_row(experiment) | {
        "n_params": bits.n_params if bits else experiment.model.n_params,
        "total_bits": bits.total_bits if bits else None,
        "quantized_bits": bits.quantized_bits if bits else None,
        "nominal_bits": bits.nominal_bits if bits else None,
        **({"bits_per_param": bits.bits_per_param} if bits else {}),
    }


def setting_row(experiment: Experiment) -> dict[str, Any]:
    """What identifies an experiment, as columns."""
    setting, model = experiment.setting, experiment.model
    return {
        "id": experiment.id,
        "source": "kbit",
        "family": model.family,
        "model": model.name,
        "model_source": model.source,
        "revision": experiment.revision,
        "load_dtype": model.dtype,
        "compute_dtype": experiment.compute_dtype,
        **setting.row(),
        "bits_per_param": setting.bits_per_param,
        **{column: getattr(model, column) for column in RUN_COLUMNS},
    }


def _protocol_row(protocol: Protocol) -> dict[str, Any]:
    row = {"id": protocol.id, "task": protocol.task, "settings": protocol.settings}
    return row | protocol_limits(protocol.settings)


def protocol_limits(settings: Mapping[str, Any]) -> dict[str, int | None]:
    """The columns that say how much of a task or corpus was read, and how far back."""
    return {name: settings.get(name) for name in PROTOCOL_COLUMNS}


def _site_rows(result: JobResult, attempt: int | None) -> list[dict[str, Any]]:
    """What was found of each matrix: words as labels, numbers as values."""
    rows = []
    for site, quantities in result.sites.items():
        for quantity, found in quantities.items():
            label = found if isinstance(found, str) else None
            value = None if isinstance(found, str) else null_for_nan(float(found))
            rows.append(
                {
                    "attempt": attempt,
                    "site": site,
                    "quantity": quantity,
                    "value": value,
                    "label": label,
                }
            )
    return rows


def _attempt_row(result: JobResult, experiment: int) -> dict[str, Any]:
    return {
        "experiment": experiment,
        "status": result.status,
        "stage": result.job.stage,
        "error": result.error,
        "finished_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "host": result.host,
        "device": result.device,
        "threads": result.job.threads,
        "seconds_load": result.seconds_load,
        "seconds_quantize": result.seconds_quantize,
        "seconds_score": result.seconds_score,
        "tokens_per_batch": result.tokens_per_batch,
        "axes": result.axes,
        "arithmetic": result.arithmetic,
        "streamed": result.job.streamed,
        "peak_memory": result.peak_memory,
        "versions": result.versions,
        "git_commit": result.git_commit,
    }


def null_for_nan(value: float | None) -> float | None:
    """What a column holds: NULL for NaN, which SQL has no portable value for."""
    return None if value is None or math.isnan(value) else float(value)
