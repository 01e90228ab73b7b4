"""The closing line of a sweep says which share of the workers' time went into the work."""

from orchestrator.progress import SweepProgress
from tests.orchestrator.test_store import result


def test_share_is_of_all_the_time_that_workers_were_there(capsys):
    with SweepProgress(1) as progress:
        done = result()
        done.seconds_load, done.seconds_quantize, done.seconds_score = 5.0, 1.0, 2.0
        progress.update(done)
        assert "worker time" not in progress.summary()  # not known yet
        progress.worker_seconds = 12.0  # loads, starts and waits included
    assert "25% of worker time quantizing and scoring" in capsys.readouterr().out
