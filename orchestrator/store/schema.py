"""The database's tables (SQLAlchemy 2) and the flat `results` view."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import JSON, BigInteger, Enum, ForeignKey, LargeBinary, String, Text, false, true
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from orchestrator.study.outcome import Cause, Stage, Status
from quantizers.factors import FIELDS
from quantizers.setting import SETTING_COLUMNS

SCHEMA_VERSION = 8  # orchestrator/store/migrate.py leads here from older ones


class Base(DeclarativeBase):
    pass


def _names(kind: type[StrEnum]) -> Enum:
    """A column of an enumeration's values, as plain text."""
    return Enum(
        kind,
        native_enum=False,
        length=16,
        values_callable=lambda members: [member.value for member in members],
    )


class Meta(Base):
    """Key-value facts about the database itself: `application` and `schema_version`."""

    __tablename__ = "kbit_meta"
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class ExperimentRow(Base):
    """A model x quantization setting. Bits are filled in by its first successful attempt."""

    __tablename__ = "experiments"
    number: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    source: Mapped[str] = mapped_column(String(64))
    family: Mapped[str] = mapped_column(String(128))
    model: Mapped[str] = mapped_column(String(256))
    model_source: Mapped[str] = mapped_column(Text)
    revision: Mapped[str] = mapped_column(String(128))
    load_dtype: Mapped[str] = mapped_column(String(16))
    compute_dtype: Mapped[str] = mapped_column(String(16))
    n_params: Mapped[int | None] = mapped_column(BigInteger)
    method: Mapped[str] = mapped_column(String(32))
    bits: Mapped[float]
    data_type: Mapped[str | None] = mapped_column(String(32))
    exponent_bits: Mapped[int | None]
    block_size: Mapped[int | None]
    outlier_fraction: Mapped[float]
    centered: Mapped[bool]
    scope: Mapped[str] = mapped_column(String(16))
    by_row: Mapped[bool] = mapped_column(server_default=false())
    scales: Mapped[str] = mapped_column(String(16), server_default="absmax")
    clip_weighting: Mapped[str] = mapped_column(String(16), server_default="plain")
    gptq_order: Mapped[bool] = mapped_column(server_default=true())
    gptq_damping: Mapped[float] = mapped_column(server_default="0.01")
    gptq_hessian: Mapped[str] = mapped_column(String(16), server_default="original")
    gptq_dead: Mapped[str] = mapped_column(String(16), server_default="nearest")
    attention_bits: Mapped[int | None]
    folding: Mapped[str] = mapped_column(String(64), server_default="none")
    activations: Mapped[str] = mapped_column(String(128), server_default="16")
    kv: Mapped[str] = mapped_column(String(16), server_default="16")
    calibration: Mapped[str | None] = mapped_column(String(128))
    bits_per_param: Mapped[float]
    total_bits: Mapped[int | None] = mapped_column(BigInteger)
    quantized_bits: Mapped[int | None] = mapped_column(BigInteger)
    nominal_bits: Mapped[float | None]
    run: Mapped[str | None] = mapped_column(String(256))
    variant: Mapped[str | None] = mapped_column(String(256))
    seed: Mapped[int | None]
    step: Mapped[int | None]


class ProtocolRow(Base):
    """How a task or corpus was measured (data and task version, context, limits).

    `context`, `limit` (items of a task) and `max_tokens` (of a corpus) are those of `settings`;
    NULL: the model's own context, all items, all tokens.
    """

    __tablename__ = "protocols"
    number: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    task: Mapped[str] = mapped_column(String(256))
    settings: Mapped[dict] = mapped_column(JSON)
    context: Mapped[int | None]
    limit: Mapped[int | None]
    max_tokens: Mapped[int | None]


class MeasurementRow(Base):
    """One metric of one experiment under one protocol, and the attempt that measured it.

    `value` NULL: not a number, diverged.
    """

    __tablename__ = "measurements"
    experiment: Mapped[int] = mapped_column(ForeignKey("experiments.number"), primary_key=True)
    protocol: Mapped[int] = mapped_column(ForeignKey("protocols.number"), primary_key=True)
    metric: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[float | None]
    stderr: Mapped[float | None]
    n_items: Mapped[int]
    # NULL: imported, or by one of several attempts of an older version.
    attempt: Mapped[int | None] = mapped_column(ForeignKey("attempts.number"))


class ItemScoresRow(Base):
    """Per-item scores of one metric in item order, packed by orchestrator/store/item_scores.py."""

    __tablename__ = "item_scores"
    experiment: Mapped[int] = mapped_column(ForeignKey("experiments.number"), primary_key=True)
    protocol: Mapped[int] = mapped_column(ForeignKey("protocols.number"), primary_key=True)
    metric: Mapped[str] = mapped_column(String(64), primary_key=True)
    scores: Mapped[bytes] = mapped_column(LargeBinary)


class AttemptRow(Base):
    """One try at an experiment: how it ended, where it ran, what it cost."""

    __tablename__ = "attempts"
    number: Mapped[int] = mapped_column(primary_key=True)
    experiment: Mapped[int] = mapped_column(ForeignKey("experiments.number"), index=True)
    status: Mapped[Status] = mapped_column(_names(Status))
    stage: Mapped[Stage] = mapped_column(_names(Stage), server_default=Stage.FULL)
    error: Mapped[str | None] = mapped_column(Text)
    finished_at: Mapped[str] = mapped_column(String(32))
    host: Mapped[str] = mapped_column(String(256))
    device: Mapped[str] = mapped_column(String(256))
    threads: Mapped[int]
    seconds_load: Mapped[float]
    seconds_quantize: Mapped[float]
    seconds_score: Mapped[float]
    seconds_store: Mapped[float | None]  # this result's share of its transaction, less the commit
    peak_memory: Mapped[int | None] = mapped_column(BigInteger)
    versions: Mapped[dict] = mapped_column(JSON)
    git_commit: Mapped[str | None] = mapped_column(String(64))
    tokens_per_batch: Mapped[int | None]  # at most, in every score
    # Of a dropped one: the axes of size on which it cannot win, as `total,nominal`.
    axes: Mapped[str | None] = mapped_column(String(64))
    # Of products with rounded activations: integer, float or mixed; NULL: none were rounded.
    arithmetic: Mapped[str | None] = mapped_column(String(16))
    # Whether the model was read block by block, with all its jobs (compute.streaming).
    streamed: Mapped[bool] = mapped_column(server_default=false())


class FailureRow(Base):
    """Why a failed attempt left a protocol of its experiment without scores."""

    __tablename__ = "failures"
    attempt: Mapped[int] = mapped_column(ForeignKey("attempts.number"), primary_key=True)
    protocol: Mapped[int] = mapped_column(ForeignKey("protocols.number"), primary_key=True)
    cause: Mapped[Cause] = mapped_column(_names(Cause))
    error: Mapped[str] = mapped_column(Text)


class SiteRecordRow(Base):
    """A quantity of one matrix of a model, as an attempt found it: how its rounding went, the range
    of what it reads. `value` NULL: not a number, or `label` has it in words.
    """

    __tablename__ = "site_records"
    attempt: Mapped[int] = mapped_column(ForeignKey("attempts.number"), primary_key=True)
    site: Mapped[str] = mapped_column(String(256), primary_key=True)
    quantity: Mapped[str] = mapped_column(String(32), primary_key=True)
    value: Mapped[float | None]
    label: Mapped[str | None] = mapped_column(String(64))


RUN_COLUMNS = ("run", "variant", "seed", "step")  # of models that a study trained
RESULT_COLUMNS = (
    "source",
    "experiment_id",
    "family",
    "model",
    "n_params",
    *SETTING_COLUMNS,
    "bits_per_param",
    "total_bits",
    "quantized_bits",
    "nominal_bits",
    "task",
    "metric",
    "value",
    "stderr",
    "n_items",
    "protocol",
    "context",
    "limit",
    "max_tokens",
    *RUN_COLUMNS,
)

# Whole numbers that may be missing.
PROTOCOL_COLUMNS = ("context", "limit", "max_tokens")
INTEGER_COLUMNS = (
    "n_params",
    *(name for name, field in FIELDS.items() if field.type == "int | None"),
    "total_bits",
    "quantized_bits",
    *PROTOCOL_COLUMNS,
    "seed",
    "step",
)

RESULTS_VIEW = f"""
CREATE VIEW results AS
SELECT e.source, e.id AS experiment_id, e.family, e.model, e.n_params,
       {", ".join(f"e.{column}" for column in SETTING_COLUMNS)},
       e.bits_per_param, e.total_bits, e.quantized_bits, e.nominal_bits,
       p.task, m.metric, m.value, m.stderr, m.n_items,
       p.id AS protocol, p.context, p."limit", p.max_tokens,
       {", ".join(f"e.{column}" for column in RUN_COLUMNS)}
FROM measurements m
JOIN experiments e ON e.number = m.experiment
JOIN protocols p ON p.number = m.protocol
"""
