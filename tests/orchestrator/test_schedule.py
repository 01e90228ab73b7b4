"""The scheduling policy, without Ray."""

from orchestrator.grid import Experiment
from orchestrator.job import Job
from orchestrator.models import ModelEntry
from orchestrator.schedule import MAX_ATTEMPTS, Schedule
from quantizers.config import QuantConfig


def jobs_of(model: str, *precisions: int) -> list[Job]:
    entry = ModelEntry(family="f", name=model, hub=model)
    return [
        Job(
            Experiment(entry, "main", QuantConfig.make(bits=k, data_type="int"), "float32"),
            [],
            "cpu",
            1,
        )
        for k in precisions
    ]


def name(job: Job | None) -> str | None:
    return job and job.experiment.model.name


def test_worker_stays_with_its_model_then_takes_the_next_unstarted_one():
    schedule = Schedule(jobs_of("large", 4, 3) + jobs_of("small", 4))
    assert name(schedule.next(None)) == "large"
    assert name(schedule.next("large")) == "large"
    assert name(schedule.next("large")) == "small"
    assert schedule.next("small") is None


def test_second_worker_takes_another_model_and_then_helps():
    schedule = Schedule(jobs_of("large", 4, 3, 2) + jobs_of("small", 4))
    assert name(schedule.next(None)) == "large"
    assert name(schedule.next(None)) == "small"
    assert name(schedule.next("small")) == "large"


def test_lost_job_comes_back_until_its_attempts_are_spent():
    schedule = Schedule(jobs_of("m", 4))
    for attempt in range(1, MAX_ATTEMPTS + 1):
        job = schedule.next(None)
        assert job is not None, attempt
        assert schedule.lost(job) is (attempt < MAX_ATTEMPTS)
    assert schedule.next(None) is None
