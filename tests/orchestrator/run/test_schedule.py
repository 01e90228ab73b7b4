"""The scheduling policy, without Ray."""

from dataclasses import replace

from orchestrator.run import stacking
from orchestrator.run.schedule import BATCH_SECONDS, MAX_ATTEMPTS, MAX_BATCH, Schedule
from orchestrator.run.stacking import stacked
from orchestrator.study.experiment import Experiment
from orchestrator.study.job import Job, JobResult, handed_out
from orchestrator.study.models import ModelEntry
from quantizers.setting import Setting


def jobs_of(model: str, *precisions: int) -> list[Job]:
    entry = ModelEntry(family="f", name=model, hub=model)
    return [
        Job(
            Experiment(entry, "main", Setting.make(bits=k, data_type="int"), "float32"),
            [],
            "cpu",
            1,
        )
        for k in precisions
    ]


def worker(schedule: Schedule) -> str | None:
    """A worker joins and is ready at once."""
    name = schedule.join()
    if name is not None:
        schedule.arrived(name)
    return name


def finish(schedule: Schedule, job: Job, seconds: float, load: float = 0.0) -> None:
    schedule.finished(JobResult(job, "done", seconds_score=seconds, seconds_load=load))


def test_largest_model_first_then_the_next_that_nobody_serves():
    schedule = Schedule(jobs_of("large", 4, 3) + jobs_of("small", 4))
    assert worker(schedule) == "large"
    assert worker(schedule) == "small"
    assert [job.experiment.setting.bits for job in schedule.take("large")] == [4]
    assert [job.experiment.setting.bits for job in schedule.take("large")] == [3]
    assert schedule.take("large") == []
    assert len(schedule.take("small")) == 1
    assert not schedule.has_work()


def test_no_more_workers_than_jobs():
    schedule = Schedule(jobs_of("m", 4, 3))
    assert [schedule.join() for _ in range(3)] == ["m", "m", None]


def test_a_streamed_model_is_one_workers_with_all_its_jobs():
    jobs = [replace(job, streamed=True) for job in jobs_of("large", 8, 4, 3)]
    schedule = Schedule(jobs + jobs_of("small", 4))
    assert [schedule.join() for _ in range(3)] == ["large", "small", None]
    schedule.arrived("large")
    assert schedule.take("large") == jobs and schedule.take("large") == []
    for attempt in range(1, MAX_ATTEMPTS):  # the worker dies
        assert all([schedule.lost(job) for job in reversed(jobs)])
        schedule.leave("large")
        assert worker(schedule) == "large"
        assert schedule.take("large") == jobs, attempt
    assert not any([schedule.lost(job) for job in reversed(jobs)])
    assert schedule.take("large") == []


def test_streamed_jobs_are_handed_out_by_model_and_others_alone():
    large = [replace(job, streamed=True) for job in jobs_of("large", 8, 4)]
    small = jobs_of("small", 4, 3)
    assert list(handed_out(large + small)) == [large, [small[0]], [small[1]]]


def test_help_only_when_the_wait_is_longer_than_the_load():
    for load, expected in [(25.0, "m"), (35.0, None)]:
        schedule = Schedule(jobs_of("m", 8, 7, 6, 5))
        assert worker(schedule) == "m"
        [job] = schedule.take("m")
        finish(schedule, job, seconds=10.0, load=load)
        assert schedule.join() == expected  # three jobs wait: 30 s for the one worker there is


def test_a_model_whose_worker_left_is_served_again():
    schedule = Schedule(jobs_of("m", 4, 3))
    assert worker(schedule) == "m"
    [job] = schedule.take("m")
    finish(schedule, job, seconds=1.0, load=100.0)
    assert schedule.join() is None
    schedule.leave("m")
    assert schedule.join() == "m"


def test_quick_jobs_travel_together_and_are_shared_out():
    schedule = Schedule(jobs_of("m", *range(2, 16)))
    assert worker(schedule) == worker(schedule) == "m"
    [job] = schedule.take("m")  # nothing is known yet
    finish(schedule, job, seconds=BATCH_SECONDS / 4)
    assert len(schedule.take("m")) == 4
    finish(schedule, job, seconds=0.0)
    finish(schedule, job, seconds=0.0)
    assert len(schedule.take("m")) == 5 <= MAX_BATCH  # half of the nine that are left


def test_lost_job_travels_alone_until_its_attempts_are_spent():
    schedule = Schedule(jobs_of("m", 4, 3, 2))
    worker(schedule)
    [job] = schedule.take("m")
    finish(schedule, job, seconds=0.0)
    poison, innocent = schedule.take("m")
    assert schedule.lost(innocent) and schedule.lost(poison)
    for attempt in range(2, MAX_ATTEMPTS + 1):
        assert schedule.take("m") == [poison]
        assert schedule.lost(poison) is (attempt < MAX_ATTEMPTS)
    assert schedule.take("m") == [innocent]
    assert not schedule.has_work()


def gptq_jobs(model: str, *precisions: int) -> list[Job]:
    """The jobs above, of GPTQ; 16 bit and those of one calibration are two kinds."""
    return [
        replace(job, experiment=replace(job.experiment, setting=Setting.make(
            bits=job.experiment.setting.bits, data_type="int", rounding="gptq"
        )))
        for job in jobs_of(model, *precisions)
    ]  # fmt: skip


def test_stacks_are_of_one_model_and_kind_in_a_row(monkeypatch):
    monkeypatch.setattr(stacking, "MOST", 2)
    jobs = gptq_jobs("a", 2, 3) + jobs_of("a", 16, 4) + gptq_jobs("b", 5) + gptq_jobs("a", 6)
    found = [
        (job.experiment.model.name, job.experiment.setting.bits, [s.bits for s in job.together])
        for job in stacked(jobs)
    ]
    assert found == [
        ("a", 16, []), ("a", 4, []), ("a", 2, [2, 3]), ("a", 3, [2, 3]), ("a", 6, [6]),
        ("b", 5, [5]),
    ]  # fmt: skip


def test_each_worker_goes_through_a_stack_of_its_own(monkeypatch):
    monkeypatch.setattr(stacking, "MOST", 3)
    schedule = Schedule(stacked(jobs_of("m", 16) + gptq_jobs("m", *range(2, 8))))
    assert [worker(schedule) for _ in range(2)] == ["m", "m"]
    taken: dict[str, list[int]] = {"one": [], "two": []}
    last: dict[str, Job | None] = {"one": None, "two": None}
    for name in ("one", "two", "one", "two", "two", "one", "one"):
        [last[name]] = schedule.take("m", last[name])
        taken[name].append(int(last[name].experiment.setting.bits))
    assert taken == {"one": [16, 5, 6, 7], "two": [2, 3, 4]}
    assert schedule.take("m", last["one"]) == []
