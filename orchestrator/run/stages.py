"""The stages of a sweep: do what the database lacks, after samples where the sweep is adaptive.

Nothing is started, no cluster and no worker, before there is something to do.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.run.estimate import estimate, measured_rates
from orchestrator.run.interrupt import Interrupt
from orchestrator.run.local import run_local
from orchestrator.run.progress import SweepProgress
from orchestrator.run.provenance import here
from orchestrator.run.stacking import stacked
from orchestrator.run.streaming_choice import streamed_models
from orchestrator.store.measured import missing_protocols
from orchestrator.store.store import Store
from orchestrator.study.data_check import check_hub
from orchestrator.study.experiment import Asked
from orchestrator.study.grid import Plan
from orchestrator.study.job import Job, JobResult
from orchestrator.study.outcome import Cause, Stage, Status
from orchestrator.study.spec import Sweep

if TYPE_CHECKING:  # takes scipy along
    from orchestrator.run.screening import Verdict


@dataclass(frozen=True)
class Workforce:
    """Who runs the jobs: `worker` makes what does, in each process; `executor` is ray or local.

    `wait`: for nodes that can hold what no node can hold now.
    """

    worker: Callable[[], Any]
    executor: str
    wait: bool = False


@dataclass
class Stages:
    """One run of a sweep, from its plan to the database."""

    sweep: Sweep
    plan: Plan
    store: Store
    device: str
    workforce: Workforce
    interrupt: Interrupt
    retry_failed: bool = False

    def run(self) -> Verdict | None:
        """All of it; what an adaptive sweep's samples left, None where all was asked for."""
        self._record_problems()
        if self.sweep.strategy != "adaptive":
            self._stage(self.plan.asked, Stage.FULL)
            return None
        from orchestrator.run.screening import in_full

        verdict = self._screen()
        if verdict is not None:
            self._stage(in_full(self.plan, verdict), Stage.FULL)
        return verdict

    def _screen(self) -> Verdict | None:
        """Sample first; None where interrupted."""
        from orchestrator.run.screening import corpus_sample, judge

        plan, sweep, store = self.plan, self.sweep, self.store
        corpus = corpus_sample(plan, sweep)
        print("first a sample of every experiment, by loss:", flush=True)
        self._stage(corpus.asked, Stage.SCREEN)
        if self.interrupt():
            return None
        verdict = judge(plan, corpus, sweep, store)
        print(f"{dropped(plan, verdict)} experiments dropped after the samples", flush=True)
        return verdict

    def _stage(self, asked: list[Asked], stage: Stage) -> None:
        """Do what is missing; again for models whose memory ran out, in smaller batches."""
        retry_failed = self.retry_failed
        ids = {e.id: {p.id for p in protocols} for e, protocols in asked}
        while True:
            self._execute(self._missing_jobs(asked, stage, retry_failed))
            outgrown = 0
            if not self.interrupt():
                outgrown = self.store.discard_larger_batches(stage, ids)
            if not outgrown:
                return
            print(f"memory ran out: {outgrown} experiments again in smaller batches", flush=True)
            retry_failed = False  # once a sweep

    def _missing_jobs(self, asked: list[Asked], stage: Stage, retry_failed: bool) -> list[Job]:
        sweep, store = self.sweep, self.store
        usable = [(e, protocols) for e, protocols in asked if self.plan.problem(e) is None]
        failures = {} if retry_failed else store.failures()
        known = {asked for asked, failure in failures.items() if not failure.cause.mendable}
        missing = missing_protocols(usable, store.stored_measurements())
        todo = missing_protocols(missing, known)
        skipped = len(missing) - len(todo)
        note = f", {skipped} failed before (--retry-failed tries them again)" if skipped else ""
        whole = f"{len(sweep.task_names())} tasks and {len(sweep.corpora)} corpora"
        print(
            f"{len(asked)} experiments x {whole if stage == Stage.FULL else '1 sample'}: "
            f"{len(usable) - len(missing)} stored, {len(todo)} to do{note}",
            flush=True,
        )
        sizes, compute = store.batch_sizes(), sweep.compute
        streamed = streamed_models(todo, compute, self.device)
        for name, why in streamed.items():
            print(f"{name} is read block by block: {why}", flush=True)
        jobs = [
            Job(
                e,
                p,
                self.device,
                compute.threads_per_worker,
                stage,
                sizes.get((e.model.name, e.compute_dtype)),
                streamed=e.model.name in streamed,
                hidden_memory=compute.hidden_memory,
            )
            for e, p in todo
        ]
        return jobs if compute.stacking is False else stacked(jobs)

    def _execute(self, jobs: list[Job]) -> None:
        """Run the jobs and store each result as it comes."""
        if not jobs:
            return
        check_hub(protocol for job in jobs for protocol in job.protocols)
        worker, local = self.workforce.worker, self.workforce.executor == "local"
        if not local:
            from orchestrator.run.connection import start_ray
            from orchestrator.run.pool import Pool  # imports Ray: not for the local executor

            start_ray()
            self.interrupt.listen()  # Ray has taken SIGTERM for itself
        with SweepProgress(self._expected(jobs)) as progress:
            if local:
                results = run_local(jobs, worker, self.interrupt)
            else:
                compute, wait = self.sweep.compute, self.workforce.wait
                pool = Pool(jobs, worker, compute.workers, compute.timeout, self.interrupt, wait)
                results = pool.results()
            with closing(results):  # ends the workers whatever happens
                for batch in results:
                    self.store.record(*batch)
                    for result in batch:
                        progress.update(result)
            # The local executor is one worker, there all the time.
            progress.worker_seconds = progress.elapsed() if local else pool.worker_seconds

    def _expected(self, jobs: list[Job]) -> dict[str, float]:
        """What each experiment will take of a worker: seconds, by the estimate of `--dry-run`;
        before anything is measured, its parameters."""
        rates = measured_rates(self.store)
        found = estimate(rates, [(job.experiment, job.protocols) for job in jobs])
        if found is None:
            return {job.experiment.id: float(job.experiment.model.n_params or 1) for job in jobs}
        print(
            f"about {found.hours:.2g} worker-hours, by {rates.measurements} earlier measurements",
            flush=True,
        )
        return {job.experiment.id: s for job, s in zip(jobs, found.seconds, strict=True)}

    def _record_problems(self) -> None:
        """What cannot be done is stored as failed, once."""
        known = self.store.failed_experiments()
        for experiment, protocols in self.plan.asked:
            problem = self.plan.problem(experiment)
            if problem is not None and known.get(experiment.id) != str(problem):
                cause = Cause.ASKED if isinstance(problem, str) else Cause.MODEL
                threads = self.sweep.compute.threads_per_worker
                job = Job(experiment, protocols, self.device, threads)
                self.store.record(JobResult(job, Status.FAILED, str(problem), cause, **here()))


def dropped(plan: Plan, verdict: Verdict) -> int:
    """How many experiments the samples ruled out."""
    return len(plan.experiments) - len(verdict.corpora | verdict.tasks)
