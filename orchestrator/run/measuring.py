"""Protocols measured on an engine's model as it stands, and what becomes of errors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from evaluation.data.errors import DataError
from evaluation.engine.engine import Engine
from evaluation.measurement import Measurement
from evaluation.tasks.zero_shot import evaluate_zero_shot
from evaluation.text.perplexity import evaluate_perplexity
from orchestrator.study.experiment import Protocol, as_sample
from orchestrator.study.job import JobResult
from orchestrator.study.outcome import Cause, Failure, Status
from quantizers.checkpoint import UnusableModel


def add_scores(result: JobResult, engine: Engine, protocol: Protocol) -> None:
    """Add one protocol's scores to the result, or why there are none: others may have."""
    try:
        result.measurements.append((protocol, measure(engine, protocol)))
    except ValueError as error:
        result.failures[protocol.id] = fail(result, error)


def fail(result: JobResult, error: Exception) -> Failure:
    """The result of a job that failed of `error`, and what is stored of that."""
    failure = _failure_of(error)
    result.status, result.error, result.cause = Status.FAILED, failure.error, failure.cause
    return failure


@contextmanager
def timed(result: JobResult, phase: str) -> Iterator[None]:
    """Add the seconds of a phase, also of one that fails."""
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds = getattr(result, phase) + time.perf_counter() - started
        setattr(result, phase, seconds)


def measure(engine: Engine, protocol: Protocol) -> Measurement:
    """One task or corpus on the model as it stands.

    Raises ValueError for a context the model cannot read, for data that changed on the way, and
    where the protocol was planned without what the model's config says of how it is scored.
    """
    if not engine.mended.items() <= protocol.settings.items():
        raise ValueError(
            f"{protocol.task}: planned before the model's config.json was here; start the sweep "
            "again"
        )
    score = _score_task if "task" in protocol.settings else _score_corpus
    measured = score(engine, protocol)
    if measured.protocol["data"] != protocol.settings["data"]:
        raise DataError(
            f"{protocol.task}: its data changed since the sweep started; start the sweep again"
        )
    return as_sample(measured) if protocol.kind == "sample" else measured


def _score_task(engine: Engine, protocol: Protocol) -> Measurement:
    settings, name = protocol.settings, protocol.source
    local = {name: protocol.data_files} if protocol.data_files else {}
    return evaluate_zero_shot(engine, [name], settings["limit"], local, settings["context"])[0]


def _score_corpus(engine: Engine, protocol: Protocol) -> Measurement:
    settings = protocol.settings
    return evaluate_perplexity(
        engine,
        protocol.source,
        settings["context"],
        settings["max_tokens"],
        protocol.data_files,
        settings.get("bos", False),
        settings.get("spread"),
    )


def _failure_of(error: Exception) -> Failure:
    """What an exception says, and whose fault it is."""
    cause = Cause.ASKED
    if isinstance(error, UnusableModel):
        cause = Cause.MODEL
    elif isinstance(error, DataError | OSError):
        cause = Cause.DATA
    return Failure(cause, f"{type(error).__name__}: {error}")


def context_is_broken(error: Exception) -> bool:
    """Out of memory is survivable; any other CUDA error poisons the process."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return False
    return isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error)
