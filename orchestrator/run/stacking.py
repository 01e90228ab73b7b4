"""Which jobs of a model are rounded in one go: those of one kind, some at a time, in a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.study.job import Job
from quantizers.stackable import shared

MOST = 32  # settings; a second worker that helps with a model rounds at most so many again


def stacked(jobs: Sequence[Job]) -> list[Job]:
    """The jobs, model by model as they were; of a model those alone first, then stack by stack."""
    kinds: dict[str, dict[tuple | None, list[Job]]] = {}
    for job in jobs:
        kind = shared(job.experiment.setting)
        model = kinds.setdefault(job.experiment.model.name, {None: []})
        model.setdefault(kind, []).append(job)
    found: list[Job] = []
    for model in kinds.values():
        found += model.pop(None)
        for group in model.values():
            for start in range(0, len(group), MOST):
                part = group[start : start + MOST]
                settings = tuple(job.experiment.setting for job in part)
                found += [replace(job, together=settings) for job in part]
    return found
