"""What a command measured on one model, stored beside the sweep's results for that setting.

Its attempts are of a stage of their own: what a sweep did, failed at or has to do stays as it was.
"""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.measurement import Measurement
from orchestrator.store.store import Store
from orchestrator.study.experiment import Experiment, Protocol
from orchestrator.study.identity import identify
from orchestrator.study.job import Job, JobResult
from orchestrator.study.models import ModelEntry
from orchestrator.study.outcome import Stage, Status
from quantizers.setting import Setting


def store_measurements(
    store: Store,
    entry: ModelEntry,
    setting: Setting,
    device: str,
    device_name: str,
    measurements: Sequence[Measurement],
) -> None:
    """Store measurements of a model at one setting, as of the experiment that a sweep would run.

    What is stored already stays as it is. Raises InputError while a sweep is writing.
    """
    compute_dtype = entry.dtype if device == "cuda" else "float32"
    model = identify(entry)
    experiment = Experiment(model.entry, store.revision_of(model), setting, compute_dtype)
    protocols = [Protocol(m.task, "command", m.protocol, m.task) for m in measurements]
    result = JobResult(
        Job(experiment, protocols, device, threads=0, stage=Stage.COMMAND),
        Status.DONE,
        measurements=list(zip(protocols, measurements, strict=True)),
        device=device_name,
    )
    with store.lock():
        store.record(result)
