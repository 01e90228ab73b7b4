"""What ends a private cluster must not end its driver, however long that takes to end."""

import subprocess
import sys
import time

import psutil

from orchestrator.paths import ROOT
from orchestrator.run.watchdog import GRACE_SECONDS

# A driver that writes to its session's log, as Ray's do, and is long in ending: of its modules,
# those imported first are torn down last.
SLOW_DRIVER = f"""
import os, pathlib, subprocess, sys, time

class Slow:
    def __del__(self, sleep=time.sleep):
        sleep({GRACE_SECONDS + 2})

subprocess.slow = Slow()
session = pathlib.Path(sys.argv[1]) / f"session_today_{{os.getpid()}}"
session.mkdir()
log = sys.__log__ = open(session / "driver.log", "w")
left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=log)
print(left.pid, flush=True)
import orchestrator.run.watchdog
orchestrator.run.watchdog.watch()
"""


def test_a_driver_that_is_long_in_ending_is_left_alone(tmp_path):
    driver = subprocess.run(
        [sys.executable, "-c", SLOW_DRIVER, tmp_path],
        cwd=ROOT, text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert driver.returncode == 0, driver.stderr
    deadline = time.monotonic() + 20
    while psutil.pid_exists(int(driver.stdout)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(int(driver.stdout))  # what it left is ended
