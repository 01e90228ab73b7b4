"""How long it will take, and which share of the workers' time went into the work."""

import pytest

from orchestrator.run import progress as module
from orchestrator.run.progress import SweepProgress
from tests.orchestrator.store.test_store import result


def test_share_is_of_all_the_time_that_workers_were_there(capsys):
    with SweepProgress({result().job.experiment.id: 1.0}) as progress:
        done = result()
        done.seconds_load, done.seconds_quantize, done.seconds_score = 5.0, 1.0, 2.0
        progress.update(done)
        assert "worker time" not in progress.summary()  # not known yet
        progress.worker_seconds = 12.0  # loads, starts and waits included
    assert "25% of worker time quantizing and scoring" in capsys.readouterr().out


@pytest.mark.parametrize(("elapsed", "left"), [(10, "30 s"), (60, "3.0 min"), (3600, "3.0 h")])
def test_the_time_left_counts_experiments_by_what_they_take(monkeypatch, elapsed, left):
    """One that takes a quarter of the whole is done: three times as long for the others."""
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    small, large, larger = (result(bits) for bits in (4, 8, 16))
    expected = {r.job.experiment.id: s for r, s in ((small, 2.0), (large, 1.0), (larger, 5.0))}
    progress = SweepProgress(expected)
    assert "time left unknown" in progress._note()
    clock[0] = elapsed
    progress.update(small)
    assert f"about {left} left" in progress._note()
    progress.update(large)
    progress.update(larger)
    assert "about 0 s left" in progress._note()
