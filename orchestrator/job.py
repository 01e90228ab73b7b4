"""What travels between the driver and its workers."""

from __future__ import annotations

from dataclasses import dataclass, field

from evaluation.measurement import Measurement
from orchestrator.grid import Experiment, Protocol
from quantizers.model import ModelBits


@dataclass
class Job:
    """One experiment with the measurements it still lacks."""

    experiment: Experiment
    protocols: list[Protocol]
    device: str  # "cpu" | "cuda"
    threads: int


@dataclass
class JobResult:
    """How one attempt at a job ended. `measurements` may be partial when it failed."""

    job: Job
    status: str  # done | failed | lost
    error: str | None = None
    bits: ModelBits | None = None
    measurements: list[tuple[Protocol, Measurement]] = field(default_factory=list)
    seconds_load: float = 0.0
    seconds_quantize: float = 0.0
    seconds_score: float = 0.0
    peak_memory: int | None = None
    host: str = ""
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)
