"""What travels between the driver and its workers. Light to import: workers unpickle it first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from orchestrator.study.experiment import Experiment, Protocol
from orchestrator.study.outcome import Cause, Failure, Stage, Status

if TYPE_CHECKING:
    from evaluation.measurement import Measurement
    from quantizers.setting import Setting
    from quantizers.size import ModelBits


@dataclass
class Job:
    """One experiment with the measurements it still lacks."""

    experiment: Experiment
    protocols: list[Protocol]
    device: str  # "cpu" | "cuda"
    threads: int
    stage: Stage = Stage.FULL
    tokens_per_batch: int | None = None  # at most: memory ran out with more
    together: tuple[Setting, ...] = ()  # what jobs of this model round in one go, this one's too
    streamed: bool = False  # with all jobs of this model, block by block
    hidden_memory: int | None = None  # bytes of what waits between blocks; None: half of the free


def handed_out(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """The jobs as a worker gets them: one by one, and those that are streamed by model."""
    for model, group in groupby(jobs, key=lambda job: (job.experiment.model.name, job.streamed)):
        if model[1]:
            yield list(group)
        else:
            yield from ([job] for job in group)


@dataclass
class JobResult:
    """How one attempt at a job ended. `measurements` may be partial when it failed."""

    job: Job
    status: Status
    error: str | None = None
    cause: Cause = Cause.ASKED  # of a failure
    failures: dict[str, Failure] = field(default_factory=dict)  # by protocol id, where they differ
    bits: ModelBits | None = None
    arithmetic: str | None = None  # of rounded activations, see quantizers.resident
    sites: dict[str, dict[str, float | str]] = field(default_factory=dict)  # name -> what was found
    measurements: list[tuple[Protocol, Measurement]] = field(default_factory=list)
    seconds_load: float = 0.0
    seconds_quantize: float = 0.0
    seconds_score: float = 0.0
    tokens_per_batch: int | None = None  # at most, in every score
    axes: str | None = None  # of what samples ruled out: the axes of size they were asked about
    peak_memory: int | None = None
    host: str = ""
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str | None = None


def unmeasured(result: JobResult) -> dict[str, Failure]:
    """Protocol id -> why, of all that a failed attempt leaves without scores."""
    if result.status != Status.FAILED:
        return {}
    measured = {protocol.id for protocol, _ in result.measurements}
    whole = Failure(result.cause, result.error or "")
    asked = [protocol.id for protocol in result.job.protocols]
    return {id_: result.failures.get(id_, whole) for id_ in asked if id_ not in measured}


def unusable_model(error: str | None) -> str | None:
    """The reason where an attempt failed since its model can be scored at no setting, as a worker
    stores it (see quantizers.checkpoint.UnusableModel)."""
    kind, _, reason = (error or "").partition(": ")
    return reason if kind == "UnusableModel" else None
