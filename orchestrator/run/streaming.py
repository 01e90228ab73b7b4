"""All jobs of a model at once, through a model whose blocks are read one at a time.

What the protocols ask of a scorer is noted first. Then every block is read once, and taken through
the settings of all jobs; last, the protocols are answered with the scores.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from evaluation.data.cache_folder import cache_directory
from evaluation.engine.block_by_block import BlockByBlock
from evaluation.engine.encoding import Encoder
from evaluation.engine.engine import Engine
from evaluation.engine.hidden_states import HiddenStates
from evaluation.engine.layout import Plan
from evaluation.engine.scoring import Scores
from evaluation.engine.sequences import Sequences
from orchestrator.run.measuring import add_scores, context_is_broken, failure_of, measure
from orchestrator.run.provenance import device_name, here, peak_memory, reset_peak_memory
from orchestrator.study.experiment import Protocol, content_id
from orchestrator.study.job import Job, JobResult
from orchestrator.study.outcome import Status
from quantizers.calibration import free_memory
from quantizers.checkpoint import UnusableModel
from quantizers.in_place import InPlace
from quantizers.setting import NO_CACHE, NO_FOLDING, Setting
from quantizers.size import StoredSize
from quantizers.soundness import check_causal
from quantizers.streamed_model import StreamedModel


@dataclass(frozen=True, eq=False)
class _Request:
    """What a protocol asks of a scorer."""

    sequences: Sequences
    greedy: bool
    window: int


@dataclass
class _Course:
    """A job on its way through the blocks."""

    result: JobResult
    size: StoredSize
    arithmetic: set[str] = field(default_factory=set)
    scores: dict[str, list[Scores]] = field(default_factory=dict)  # by protocol id

    @property
    def setting(self) -> Setting:
        return self.result.job.experiment.setting

    def note(self, part: InPlace) -> None:
        """What is known of matrices, before the setting is taken from them."""
        self.result.sites |= part.records
        if part.arithmetic is not None:
            self.arithmetic.add(part.arithmetic)


class Streaming:
    """The jobs of one model. Every one of them ends with a result, as in `Worker.run`."""

    def __init__(self, jobs: Sequence[Job], encoder: Encoder | None = None) -> None:
        """`encoder`: another model's, see Engine."""
        self._jobs, self._encoder = jobs, encoder
        self._courses = [_course(job) for job in jobs]
        self._requests: dict[str, list[_Request]] = {}  # by protocol id

    def run(self) -> list[JobResult]:
        """A result for each job; where nothing works any more in this process, one that says
        `lost`. Never raises."""
        device = self._jobs[0].device
        torch.set_num_threads(self._jobs[0].threads)
        try:
            reset_peak_memory(device)
            name = device_name(device)
            for course in self._courses:
                course.result.device = name
            self._run()
        except Exception as error:
            if context_is_broken(error):
                lost = replace(self._courses[0].result, status=Status.LOST, error=str(error))
                return [lost]
            for course in self._running():
                _fail(course, error)
        for course in self._courses:
            course.result.peak_memory = peak_memory(device)
        return [course.result for course in self._courses]

    def _running(self) -> list[_Course]:
        return [course for course in self._courses if course.result.status == Status.DONE]

    def _run(self) -> None:
        started = time.perf_counter()
        streamed, engine = self._open()
        self._share_load(started)
        budget = self._jobs[0].hidden_memory
        if budget is None:
            budget = free_memory(torch.device("cpu")) // 2
        self._note_requests(engine)
        while True:
            states = HiddenStates(_folder(self._jobs), budget)
            plans = self._plans(engine)
            walk = BlockByBlock(engine.scorer, streamed.passes, states)
            try:
                self._through_blocks(streamed, walk, plans)
                break
            except torch.OutOfMemoryError:
                longest = max((plan.longest for plan in plans.values()), default=0)
                if engine.tokens_per_batch <= longest:
                    raise
            finally:
                states.close()
            engine.limit_tokens_per_batch(engine.tokens_per_batch // 2)
            torch.cuda.empty_cache()
            self._courses = [  # all again: one layout for all settings
                c if c.result.status == Status.FAILED else _course(c.result.job)
                for c in self._courses
            ]
        for course in self._running():
            self._answer(course, streamed, engine)

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

    def _share_load(self, started: float) -> None:
        seconds = (time.perf_counter() - started) / len(self._courses)
        for course in self._courses:
            course.result.seconds_load += seconds

    def _note_requests(self, engine: Engine) -> None:
        """What every protocol has scored; where it cannot be, why is found when it is answered."""
        protocols = {p.id: p for job in self._jobs for p in job.protocols}
        for protocol in protocols.values():
            asked = self._requests[protocol.id] = []

            def note(
                sequences: Sequences,
                greedy: bool,
                window: int,
                asked: list[_Request] = asked,
            ) -> Scores:
                asked.append(_Request(sequences, greedy, window))
                n = len(sequences)
                return Scores(np.full(n, -1.0), np.zeros(n, dtype=bool) if greedy else None)

            with engine.scored_by(note), suppress(ValueError):
                measure(engine, protocol)

    def _plans(self, engine: Engine) -> dict[_Request, Plan]:
        """The batches of all requests, of one layout."""
        asked = [request for requests in self._requests.values() for request in requests]
        size = None
        while size != engine.tokens_per_batch:  # halved on the way: all again
            size = engine.tokens_per_batch
            plans = {r: engine.scorer.plan(r.sequences, r.window) for r in asked}
        return plans

    def _through_blocks(
        self, streamed: StreamedModel, walk: BlockByBlock, plans: dict[_Request, Plan]
    ) -> None:
        around, last = streamed.around(), streamed.n_blocks - 1
        for number in range(streamed.n_blocks):
            started = time.perf_counter()
            block = streamed.load(number)
            self._share_load(started)
            for course in self._running():
                try:
                    with _timed(course.result, "seconds_quantize"):
                        block.put(course.setting, course.size)
                        if number in (0, last):  # counted once
                            size = course.size if number == 0 else StoredSize(course.setting)
                            around.put(_without_blocks(course.setting), size)
                    with _timed(course.result, "seconds_score"):
                        self._read(course, walk, plans, number == last)
                    course.note(block)
                    course.note(around)
                except torch.OutOfMemoryError:
                    raise
                except Exception as error:
                    if context_is_broken(error):
                        raise
                    _fail(course, error)
                    for place, plan in self._places(course, plans):
                        walk.drop(place, plan)
                finally:
                    block.undo()
                    around.undo()

    def _places(
        self, course: _Course, plans: dict[_Request, Plan]
    ) -> Iterator[tuple[tuple[str, str, int], Plan]]:
        for protocol in course.result.job.protocols:
            for i, request in enumerate(self._requests[protocol.id]):
                yield (course.result.job.experiment.id, protocol.id, i), plans[request]

    def _read(
        self, course: _Course, walk: BlockByBlock, plans: dict[_Request, Plan], ends: bool
    ) -> None:
        """All that a job's protocols ask for, through the block that is there."""
        for place, plan in self._places(course, plans):
            if not ends:
                walk.advance(place, plan)
                continue
            _, protocol, i = place
            greedy = self._requests[protocol][i].greedy
            course.scores.setdefault(protocol, []).append(walk.finish(place, plan, greedy))

    def _answer(self, course: _Course, streamed: StreamedModel, engine: Engine) -> None:
        """The measurements of a job, of its scores."""
        result = course.result
        result.bits = course.size.model_bits(streamed.n_params, streamed.wiring.n_linear)
        mixed = len(course.arithmetic) > 1
        result.arithmetic = "mixed" if mixed else next(iter(course.arithmetic), None)
        result.tokens_per_batch = engine.tokens_per_batch
        engine.finite = course.setting.is_baseline  # what diverges in few bits is a result
        for protocol in result.job.protocols:
            self._answer_one(course, engine, protocol)

    def _answer_one(self, course: _Course, engine: Engine, protocol: Protocol) -> None:
        scores = iter(course.scores.get(protocol.id, ()))
        asked = iter(self._requests[protocol.id])

        def answer(sequences: Sequences, greedy: bool, window: int) -> Scores:
            request = next(asked, None)
            if request is None or not np.array_equal(request.sequences.tokens, sequences.tokens):
                raise RuntimeError(f"{protocol.task}: asks for other texts the second time")
            return next(scores)

        with engine.scored_by(answer), _timed(course.result, "seconds_score"):
            add_scores(course.result, engine, protocol)


def _folder(jobs: Sequence[Job]) -> Path:
    """Where hidden states of these jobs go that the memory does not hold."""
    asked = [[job.experiment.id, *(p.id for p in job.protocols)] for job in jobs]
    return cache_directory() / "streaming" / content_id(asked)[:32]


def _course(job: Job) -> _Course:
    return _Course(JobResult(job, Status.DONE, **here()), StoredSize(job.experiment.setting))


def _without_blocks(setting: Setting) -> Setting:
    """What a setting is to matrices outside of the blocks: no norms or caches are there."""
    return replace(setting, folding=NO_FOLDING, kv=NO_CACHE)


def _fail(course: _Course, error: Exception) -> None:
    failure, result = failure_of(error), course.result
    result.status, result.error, result.cause = Status.FAILED, failure.error, failure.cause


@contextmanager
def _timed(result: JobResult, phase: str) -> Iterator[None]:
    """Add the seconds of a phase."""
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds = getattr(result, phase) + time.perf_counter() - started
        setattr(result, phase, seconds)
