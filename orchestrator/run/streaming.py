"""All jobs of a model at once, through a model whose blocks are read one at a time.

What the protocols ask of a scorer is noted first. Then every block is read once, and taken through
the settings of all jobs; last, the protocols are answered with the scores.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evaluation.data.cache_folder import cache_directory
from evaluation.engine.encoding import Encoder
from evaluation.engine.engine import Engine
from evaluation.engine.hidden_states import HiddenStates
from evaluation.engine.layout import Plan
from evaluation.engine.scoring import Scores
from evaluation.engine.sequences import Sequences
from orchestrator.run.calibrating import read_windows
from orchestrator.run.course import Course, Request, shared_load
from orchestrator.run.measuring import add_scores, context_is_broken, measure, timed
from orchestrator.run.provenance import device_name, here, peak_memory, reset_peak_memory
from orchestrator.run.stream_progress import StreamProgress
from orchestrator.run.through_blocks import Reading, ThroughBlocks
from orchestrator.study.calibrations import Calibration
from orchestrator.study.experiment import Protocol, content_id
from orchestrator.study.job import Job, JobResult
from orchestrator.study.outcome import Status
from quantizers.calibration import free_memory
from quantizers.checkpoint import UnusableModel
from quantizers.soundness import check_causal
from quantizers.streamed_model import StreamedModel


class Streaming:
    """The jobs of one model. Every one of them ends with a result, as in `Worker.run`."""

    def __init__(self, jobs: Sequence[Job], encoder: Encoder | None = None) -> None:
        """`encoder`: another model's, see Engine."""
        self._jobs, self._encoder = jobs, encoder
        self._courses = [Course.of(job) for job in jobs]
        self._requests: dict[str, list[Request]] = {}  # by protocol id

    def run(self) -> list[JobResult]:
        """A result for each job; where nothing works any more in this process, one that says
        `lost`. Never raises."""
        device = name = self._jobs[0].device
        torch.set_num_threads(self._jobs[0].threads)
        try:
            name = device_name(device)
            reset_peak_memory(device)
            self._run()
        except Exception as error:
            if context_is_broken(error):
                return [replace(self._courses[0].result, status=Status.LOST, error=str(error))]
            for course in self._running():
                course.fail(error)
        for course in self._courses:
            course.result.device, course.result.peak_memory = name, peak_memory(device)
        return [course.result for course in self._courses]

    def _running(self) -> list[Course]:
        return [course for course in self._courses if course.is_running]

    def _run(self) -> None:
        with shared_load(self._courses):
            streamed, engine = self._open()
            self._note_requests(engine)
            windows = self._windows(engine)
        while not self._walked(streamed, engine, windows):
            engine.limit_tokens_per_batch(engine.tokens_per_batch // 2)
            torch.cuda.empty_cache()
            self._courses = [  # all again: one layout for all settings
                Course.of(c.result.job) if c.is_running else c for c in self._courses
            ]
        for course in self._running():
            course.conclude(streamed.n_params, streamed.wiring.n_linear)
            course.result.tokens_per_batch = engine.tokens_per_batch
            engine.finite = course.setting.is_baseline  # what diverges in few bits is a result
            for protocol in course.result.job.protocols:
                self._answer(course, engine, protocol)
        shutil.rmtree(_folder(self._jobs), ignore_errors=True)

    def _open(self) -> tuple[StreamedModel, Engine]:
        job = self._jobs[0]
        entry, dtype = job.experiment.model, getattr(torch, job.experiment.compute_dtype)
        streamed = StreamedModel(entry.checkpoint, dtype, job.device)
        try:
            check_causal(streamed.model)
        except ValueError as error:
            raise UnusableModel(f"model {entry.name}: {error}") from None
        engine = Engine(streamed.model, streamed.tokenizer, self._encoder)
        if job.tokens_per_batch is not None:
            engine.limit_tokens_per_batch(job.tokens_per_batch)
        return streamed, engine

    def _note_requests(self, engine: Engine) -> None:
        """What every protocol has scored; where it cannot be, why is found when it is answered."""
        protocols = {p.id: p for job in self._jobs for p in job.protocols}
        for protocol in protocols.values():
            asked = self._requests[protocol.id] = []

            def note(
                sequences: Sequences, greedy: bool, window: int, asked: list[Request] = asked
            ) -> Scores:
                asked.append(Request(sequences, greedy, window))
                n = len(sequences)
                return Scores(np.full(n, -1.0), np.zeros(n, dtype=bool) if greedy else None)

            with engine.scored_by(note), suppress(ValueError):
                measure(engine, protocol)

    def _windows(self, engine: Engine) -> dict[Calibration, Tensor]:
        """Of every calibration that settings read; where there are none, their courses fail."""
        found: dict[Calibration, Tensor] = {}
        for course in self._running():
            calibration = course.result.job.experiment.calibration
            if calibration is None or not course.setting.needs_statistics or calibration in found:
                continue
            try:
                found[calibration] = read_windows(engine, calibration)
            except ValueError as error:
                course.fail(error)
        return found

    def _plans(self, engine: Engine) -> dict[Request, Plan]:
        """The batches of all requests, of one layout."""
        asked = [request for requests in self._requests.values() for request in requests]
        size = None
        while size != engine.tokens_per_batch:  # halved on the way: all again
            size = engine.tokens_per_batch
            plans = {r: engine.scorer.plan(r.sequences, r.window) for r in asked}
        return plans

    def _walked(
        self, streamed: StreamedModel, engine: Engine, windows: dict[Calibration, Tensor]
    ) -> bool:
        """Whether all courses are at their end; not where memory ran out that smaller batches may
        spare."""
        memory = self._jobs[0].hidden_memory
        memory = free_memory(torch.device("cpu")) // 2 if memory is None else memory
        plans, folder = self._plans(engine), _folder(self._jobs)
        shutil.rmtree(folder / "waiting", ignore_errors=True)
        states = HiddenStates(folder / "waiting", memory)
        progress = StreamProgress(folder, states, engine.tokens_per_batch)
        self._courses = progress.restore() or self._courses
        reading = Reading(plans, self._requests, windows)
        try:
            ThroughBlocks(streamed, engine.scorer, states, reading, self._courses).run(progress)
        except torch.OutOfMemoryError:
            if engine.tokens_per_batch <= max((p.longest for p in plans.values()), default=0):
                raise
            return False
        finally:
            states.close()
        return True

    def _answer(self, course: Course, engine: Engine, protocol: Protocol) -> None:
        """A measurement, of the scores of its requests."""
        scores = iter(course.scores.get(protocol.id, ()))
        asked = iter(self._requests[protocol.id])

        def answer(sequences: Sequences, greedy: bool, window: int) -> Scores:
            request = next(asked, None)
            if request is None or not np.array_equal(request.sequences.tokens, sequences.tokens):
                raise RuntimeError(f"{protocol.task}: asks for other texts the second time")
            return next(scores)

        with engine.scored_by(answer), timed(course.result, "seconds_score"):
            add_scores(course.result, engine, protocol)


def _folder(jobs: Sequence[Job]) -> Path:
    """Where hidden states of these jobs wait, and how far they are is kept: named after all that
    their values depend on."""
    first = jobs[0]
    asked = [
        [[job.experiment.id, *(p.id for p in job.protocols)] for job in jobs],
        [first.device, device_name(first.device), first.threads, here()["versions"]],
    ]
    return cache_directory() / "streaming" / content_id(asked)[:32]
