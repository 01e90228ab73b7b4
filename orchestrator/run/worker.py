"""Runs jobs on a resident model: quantize in place, score, put the weights back, take the next.

The same class serves the local executor and, as an actor, Ray. Everything that goes wrong inside a
job becomes part of its result; after a broken CUDA context the result says `lost`, and whoever
gave the job must end this process.
"""

from __future__ import annotations

import os

import torch

from evaluation.engine.encoding import Encoder
from evaluation.engine.engine import Engine
from orchestrator.run.calibrating import Calibrated
from orchestrator.run.freed_memory import FreedMemory
from orchestrator.run.measuring import add_scores, context_is_broken, fail, timed
from orchestrator.run.provenance import device_name, here, peak_memory, reset_peak_memory
from orchestrator.study.job import Job, JobResult
from orchestrator.study.models import ModelEntry
from orchestrator.study.outcome import Status
from quantizers.checkpoint import UnusableModel
from quantizers.loading import load_model
from quantizers.resident import ResidentModel
from quantizers.soundness import check_causal


class Worker:
    """Holds one model resident and runs jobs on it."""

    def __init__(self) -> None:
        quiet_libraries()
        self._entry: ModelEntry | None = None
        self._calibrated: Calibrated | None = None
        self._engine: Engine | None = None
        self._freed = FreedMemory()
        self._unusable: tuple[ModelEntry, Exception] | None = None  # the latest that did not load

    def run(self, job: Job) -> JobResult:
        """Run one job to its end. Never raises.

        Status `lost`: a CUDA error, after which nothing works in this process any more.
        """
        torch.set_num_threads(job.threads)
        result = JobResult(job, Status.DONE, **here())
        try:
            reset_peak_memory(job.device)
            result.device = device_name(job.device)
            self._run(job, result)
        except Exception as error:
            fail(result, error)
            if context_is_broken(error):
                result.status = Status.LOST
        if result.status != Status.LOST:
            result.peak_memory = peak_memory(job.device)
        self._freed.give_back()
        return result

    def run_streamed(self, jobs: list[Job]) -> list[JobResult]:
        """All jobs of one model, whose blocks are read one at a time (see run/streaming.py). Never
        raises; where nothing works in this process any more, one result that says so."""
        from orchestrator.run.streaming import Streaming

        encoder = self._engine.encoder if self._engine else None
        self._entry = self._calibrated = self._engine = None  # free before the next is there
        return Streaming(jobs, encoder).run()

    def _run(self, job: Job, result: JobResult) -> None:
        with timed(result, "seconds_load"):
            calibrated, engine = self._load(job)
            if job.tokens_per_batch is not None:
                engine.limit_tokens_per_batch(job.tokens_per_batch)
        with timed(result, "seconds_quantize"):
            result.bits = calibrated.apply(job.experiment, job.together)
            result.arithmetic = calibrated.resident.arithmetic
        engine.finite = job.experiment.setting.is_baseline  # what diverges in few bits is a result
        with timed(result, "seconds_score"):
            budget = None
            while budget != engine.tokens_per_batch:  # halved on the way: all again
                budget = engine.tokens_per_batch
                result.tokens_per_batch = budget
                result.measurements.clear()
                result.failures.clear()
                result.status, result.error = Status.DONE, None
                for protocol in job.protocols:
                    add_scores(result, engine, protocol)
        result.sites = calibrated.resident.records

    def _load(self, job: Job) -> tuple[Calibrated, Engine]:
        entry = job.experiment.model
        if entry != self._entry or self._calibrated is None or self._engine is None:
            if self._unusable is not None and self._unusable[0] == entry:
                raise self._unusable[1]  # not read again for each of its experiments
            encoder = self._engine.encoder if self._engine else None
            self._entry = self._calibrated = self._engine = None  # free before loading the next
            try:
                self._calibrated, self._engine = self._read(job, encoder)
            except torch.OutOfMemoryError:  # there may be more the next time
                raise
            except Exception as error:
                error.__cause__ = error.__context__ = None  # their frames hold the model
                self._unusable = (entry, error.with_traceback(None))
                raise
            self._entry = entry
        return self._calibrated, self._engine

    def _read(self, job: Job, encoder: Encoder | None) -> tuple[Calibrated, Engine]:
        entry = job.experiment.model
        model, tokenizer = load_model(entry.checkpoint, job.device)
        try:
            resident = ResidentModel(
                model,
                load_dtype=getattr(torch, entry.dtype),
                compute_dtype=getattr(torch, job.experiment.compute_dtype),
            )
            check_causal(resident.model)
        except ValueError as error:
            raise UnusableModel(f"model {entry.name}: {error}") from None
        engine = Engine(resident.model, tokenizer, encoder)
        return Calibrated(resident, engine, job.device), engine


def quiet_libraries() -> None:
    """Progress bars and notices of the libraries would drown the sweep's own lines."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
