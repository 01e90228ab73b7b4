"""A sweep whose workers misbehave on request: run as a program, by the tests of faults.

    python faulty.py FAULTS SWEEP_FILE --db DB [options of kbit sweep]

FAULTS is `none` or pairs like `poison=3,hang=5`: what strikes at which precision. Once each:
`kill`, `hang`, `memory` (until Ray or the kernel ends it), `cuda` (what a worker says of a broken
context). Every time: `poison` (a kill).
A job takes KBIT_JOB_SECONDS.
"""

# ruff: noqa: E402
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    from orchestrator.run.interrupt import program

    program.listen()  # before numpy is imported

import numpy as np

from evaluation.measurement import Measurement, Metric
from orchestrator.study.job import Job, JobResult

JOB_SECONDS = float(os.environ.get("KBIT_JOB_SECONDS", "0"))


class FaultyWorker:
    """Scores nothing: the value is the precision. Files beside `marker` remember what struck."""

    def __init__(self, faults: dict[int, str], marker: Path) -> None:
        self.faults, self.marker = faults, marker

    def run(self, job: Job) -> JobResult:
        bits = job.experiment.setting.bits
        host = f"{os.environ.get('KBIT_NODE', '')} {os.getpid()}"
        if self.strike(self.faults.get(bits)):
            return JobResult(job, "lost", error="AcceleratorError: CUDA error", host=host)
        time.sleep(JOB_SECONDS)
        metrics = (Metric("acc", float(bits), None, 1),)
        scores = {"acc": np.random.default_rng(bits).random(10_000)}  # does not compress
        measured = [(p, Measurement(p.task, p.settings, metrics, scores)) for p in job.protocols]
        return JobResult(job, "done", measurements=measured, seconds_score=JOB_SECONDS, host=host)

    def strike(self, fault: str | None) -> bool:
        """Whether the context is broken now, if the process lives on."""
        struck = Path(f"{self.marker}.{fault}")
        if fault is None or struck.exists():
            return False
        if fault != "poison":
            struck.touch()
        if fault == "cuda":
            return True
        if fault in ("kill", "poison"):
            os.kill(os.getpid(), signal.SIGKILL)
        hoard = []
        while True:
            if fault == "memory":
                hoard.append(b"x" * (32 << 20))
            time.sleep(0.01)


def parse(faults: str) -> dict[int, str]:
    pairs = [] if faults == "none" else [pair.split("=") for pair in faults.split(",")]
    return {int(bits): fault for fault, bits in pairs}


if __name__ == "__main__":
    from orchestrator.run.interrupt import run_program
    from orchestrator.sweep import main

    marker = Path(sys.argv[sys.argv.index("--db") + 1])
    worker = partial(FaultyWorker, parse(sys.argv[1]), marker)
    sys.exit(run_program(lambda: main(sys.argv[2:], worker)))
