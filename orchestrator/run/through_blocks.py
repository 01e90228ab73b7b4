"""The settings of a model's jobs, taken through one block after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evaluation.engine.block_by_block import BlockByBlock
from evaluation.engine.hidden_states import HiddenStates
from evaluation.engine.layout import Plan
from evaluation.engine.scoring import Scorer
from evaluation.streamed_calibration import StreamedCalibration
from orchestrator.run.course import Course, Request, shared_load
from orchestrator.run.measuring import context_is_broken, timed
from orchestrator.run.stream_progress import StreamProgress
from orchestrator.study.calibrations import Calibration
from quantizers.calibration import Statistics
from quantizers.in_place import InPlace
from quantizers.setting import NO_CACHE, NO_FOLDING, Setting
from quantizers.size import StoredSize
from quantizers.stack import Stack
from quantizers.streamed_model import StreamedModel


@dataclass(frozen=True)
class Reading:
    """What is read at every setting: batches by request, requests by protocol id, and the windows
    of calibrations."""

    plans: Mapping[Request, Plan]
    requests: Mapping[str, list[Request]]
    windows: Mapping[Calibration, Tensor]


class ThroughBlocks:
    """One walk of all courses, from the block where an earlier one ended."""

    def __init__(
        self,
        streamed: StreamedModel,
        scorer: Scorer,
        states: HiddenStates,
        reading: Reading,
        courses: list[Course],
    ) -> None:
        self._streamed, self._reading, self._courses = streamed, reading, courses
        self._walk = BlockByBlock(scorer, streamed.passes, states)
        self._around = streamed.around()
        self._original = {
            calibration: StreamedCalibration(streamed, states, windows, calibration.label)
            for calibration, windows in reading.windows.items()
        }
        # By experiment id, of those whose Hessians follow what they made of the blocks before.
        self._sequential = {
            course.id: StreamedCalibration(
                streamed, states, reading.windows[calibration], (calibration.label, course.id)
            )
            for course in courses
            if course.setting.is_sequential and course.is_running
            if (calibration := course.result.job.experiment.calibration) is not None
        }

    def run(self, progress: StreamProgress) -> None:
        """To the end of the model. What a setting fails of ends its course alone; raises what ends
        all: memory that runs out, files that cannot be read."""
        for number in range(progress.first, self._streamed.n_blocks):
            with shared_load(self._courses):
                block = self._streamed.load(number)
            seen = self._statistics(block)
            stacks = {calibration: self._stack(calibration) for calibration in seen}
            for course in self._running():
                calibration = course.result.job.experiment.calibration
                known = None if calibration is None else seen.get(calibration)
                stack = None if calibration is None else stacks.get(calibration)
                self._through(course, block, known, stack)
            for calibration in seen:
                self._original[calibration].advance()
            if number < self._streamed.n_blocks - 1:
                progress.keep(number + 1, self._courses)

    def _running(self) -> list[Course]:
        return [course for course in self._courses if course.is_running]

    def _statistics(self, block: InPlace) -> dict[Calibration, dict[str, Statistics]]:
        """Of the 16-bit block, by calibration; courses fail where they cannot be collected."""
        found = {}
        for calibration, stream in self._original.items():
            readers = [
                c for c in self._running() if c.result.job.experiment.calibration == calibration
            ]
            if not readers:
                continue
            try:
                found[calibration] = stream.statistics(block)
            except ValueError as error:
                for course in readers:
                    course.fail(error)
        return found

    def _stack(self, calibration: Calibration) -> Stack:
        """What is rounded in one go."""
        return Stack(
            [
                c.setting
                for c in self._running()
                if c.result.job.experiment.calibration == calibration and c.result.job.together
            ]
        )

    def _through(
        self,
        course: Course,
        block: InPlace,
        seen: Mapping[str, Statistics] | None,
        stack: Stack | None,
    ) -> None:
        """One course through the block that is loaded."""
        stream = self._sequential.get(course.id)
        alone = stream is not None
        try:
            with timed(course.result, "seconds_quantize"):
                entering: AbstractContextManager[None] = (
                    stream.reading() if stream else nullcontext()
                )
                windows = stream.windows if stream else None
                with entering:
                    block.put(course.setting, course.size, seen, None if alone else stack, windows)
                self._put_around(course)
                if stream is not None:
                    stream.advance()
            with timed(course.result, "seconds_score"):
                self._read(course)
            course.note(block)
            course.note(self._around)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if context_is_broken(error):
                raise
            course.fail(error)
            for _, place, plan in self._places(course):
                self._walk.drop(place, plan)
            if stream is not None:
                stream.drop()
        finally:
            block.undo()
            self._around.undo()

    def _put_around(self, course: Course) -> None:
        """The setting to what stands before the first block and behind the last; counted once."""
        passes, wiring = self._streamed.passes, self._around.wiring
        if not (passes.is_first or passes.is_last) or not wiring.in_scope(course.setting.scope):
            return
        size = course.size if passes.is_first else StoredSize(course.setting)
        self._around.put(_without_blocks(course.setting), size, {})

    def _places(self, course: Course) -> Iterator[tuple[Request, tuple[str, str, int], Plan]]:
        for protocol in course.result.job.protocols:
            for i, request in enumerate(self._reading.requests[protocol.id]):
                yield request, (course.id, protocol.id, i), self._reading.plans[request]

    def _read(self, course: Course) -> None:
        """All that a job's protocols ask for."""
        for request, place, plan in self._places(course):
            if not self._streamed.passes.is_last:
                self._walk.advance(place, plan)
                continue
            found = self._walk.finish(place, plan, request.greedy)
            course.scores.setdefault(place[1], []).append(found)


def _without_blocks(setting: Setting) -> Setting:
    """What a setting is to matrices outside of the blocks: no norms, caches or inputs that rounded
    blocks make are there."""
    return replace(setting, folding=NO_FOLDING, kv=NO_CACHE, gptq_hessian="original")
