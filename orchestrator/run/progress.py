"""Progress of a sweep: a live bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from orchestrator.study.job import JobResult, unusable_model
from orchestrator.study.outcome import Status

PLAIN_EVERY_SECONDS = 5.0


class SweepProgress:
    """Counts results as they come; use as a context manager.

    The time left follows from the time so far and from what each experiment, by its id, is expected
    to take of a worker, in any unit: as `--dry-run` estimates it (see orchestrator.run.estimate).
    """

    def __init__(self, expected: Mapping[str, float]) -> None:
        self.total, self.done, self.failed, self.lost = len(expected), 0, 0, 0
        self._left = dict(expected)
        self._whole = sum(expected.values())
        self._started = self._printed = time.monotonic()
        self._worked = 0.0
        self.unusable: set[str] = set()  # why models can be scored at no setting
        self.corrected: set[str] = set()  # what was said of wrong sizes
        self.worker_seconds: float | None = None  # for the summary: set at the end
        self._bar: Progress | None = None
        if sys.stdout.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(),
            )
            self._task = self._bar.add_task("experiments", total=self.total, note="")

    def __enter__(self) -> SweepProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        print(self.summary(), flush=True)

    def update(self, result: JobResult) -> None:
        """Count one result and show it."""
        if result.status == Status.LOST:
            self.lost += 1
        else:
            self.done += 1
            self._left.pop(result.job.experiment.id, None)
            self.failed += result.status == Status.FAILED
        self._worked += result.seconds_quantize + result.seconds_score
        if result.status != Status.DONE:
            self._say_why(result)
        self._check_size(result)
        if self._bar:
            self._bar.update(self._task, completed=self.done, note=self._note())
        elif time.monotonic() - self._printed >= PLAIN_EVERY_SECONDS:
            self._printed = time.monotonic()
            print(f"{self.done}/{self.total} experiments, {self._note()}", flush=True)

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def _say_why(self, result: JobResult) -> None:
        """What went wrong; of a model that cannot be used once, not for each of its settings."""
        experiment = result.job.experiment
        if reason := unusable_model(result.error):
            if reason not in self.unusable:
                self.unusable.add(reason)
                self._say(f"error: {reason}")
        else:
            self._say(
                f"{result.status}: {experiment.model.name} {experiment.setting.label}: "
                f"{result.error}"
            )

    def _check_size(self, result: JobResult) -> None:
        """Say once of a model that models.yaml counts its parameters otherwise."""
        model = result.job.experiment.model
        if result.bits is None or model.n_params in (None, result.bits.n_params):
            return
        line = (
            f"model {model.name}: models.yaml says n_params {model.n_params}, the model has "
            f"{result.bits.n_params}; stored is what was counted"
        )
        if line not in self.corrected:
            self.corrected.add(line)
            self._say(line)

    def _say(self, line: str) -> None:
        if self._bar:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, flush=True)

    def _note(self) -> str:
        elapsed = self.elapsed()
        rate = self.done / elapsed if elapsed else 0.0
        return f"{60 * rate:.1f}/min, {self._time_left()}, {self.failed} failed"

    def _time_left(self) -> str:
        left = sum(self._left.values())
        if (done := self._whole - left) <= 0:
            return "time left unknown"
        seconds = self.elapsed() * left / done
        for size, unit in ((3600, "h"), (60, "min")):
            if seconds >= 2 * size:
                amount = seconds / size
                return f"about {amount:.{0 if amount >= 10 else 1}f} {unit} left"
        return f"about {seconds:.0f} s left"

    def summary(self) -> str:
        """The closing line: what was done, how fast, and the share of worker time that scored."""
        elapsed = self.elapsed()
        there = self.worker_seconds
        share = (
            f", {self._worked / there:.0%} of worker time quantizing and scoring" if there else ""
        )
        lost = f", {self.lost} lost and tried again" if self.lost else ""
        return (
            f"{self.done} of {self.total} experiments in {elapsed:.0f} s, "
            f"{self.failed} failed{lost}{share}"
        )
