"""Sweeps on real Ray: a local cluster, a killed worker, `ray job submit` as a user types it."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.paths import ROOT
from orchestrator.store import Store

BIN = Path(sys.executable).parent
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{BIN}:{os.environ['PATH']}",
    "RAY_USAGE_STATS_ENABLED": "0",
    "NO_COLOR": "1",
}


def start_sweep(study: Path, **options) -> subprocess.Popen:
    command = [BIN / "kbit", "sweep", study, "--db", study.parent / "t.db"]
    return subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=ENVIRONMENT, cwd=ROOT, **options,
    )  # fmt: skip


def results_of(study: Path):
    return Store.open(f"sqlite:///{study.parent}/t.db").results()


def actor_pids(parent: int) -> list[int]:
    """Worker processes below `parent` that run our actor (Ray names processes by their task)."""
    table = subprocess.run(
        ["ps", "-eo", "pid,ppid,args"], text=True, capture_output=True, check=True
    ).stdout
    rows = [line.split(None, 2) for line in table.splitlines()[1:]]
    children: dict[int, list[tuple[int, str]]] = {}
    for pid, ppid, args in rows:
        children.setdefault(int(ppid), []).append((int(pid), args))
    found, queue = [], [parent]
    while queue:
        for pid, args in children.get(queue.pop(), []):
            queue.append(pid)
            if re.match(r"ray::_Actor", args):
                found.append(pid)
    return found


def test_killed_worker_costs_only_its_job(study):
    study.write_text(study.read_text().replace("[16, 4, 3]", "[16, 8, 7, 6, 5, 4, 3, 2]"))
    process = start_sweep(study)
    deadline, killed = time.monotonic() + 120, []
    while process.poll() is None and not killed and time.monotonic() < deadline:
        pids = actor_pids(process.pid)
        if pids and (study.parent / "t.db").exists() and len(results_of(study)):
            os.kill(pids[0], signal.SIGKILL)
            killed = pids[:1]
        time.sleep(0.05)
    output, _ = process.communicate(timeout=180)
    assert killed, output
    assert process.returncode == 0, output
    results = results_of(study)
    assert results["experiment_id"].nunique() == 8
    assert not results.duplicated(["experiment_id", "task", "metric"]).any()


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster started as the README says, on the loopback interface."""
    start = [BIN / "ray", "start", "--head", "--port=0", "--num-cpus=2", "--block"]
    addresses = ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    process = subprocess.Popen(
        [*start, *addresses, "--dashboard-port=8299"],
        env=ENVIRONMENT, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Ray runtime started" in line:
            break
    else:
        pytest.fail("ray did not start:\n" + "".join(lines))
    yield "http://127.0.0.1:8299"
    process.terminate()  # with --block, Ray takes its own children along
    process.wait(timeout=60)


@pytest.mark.parametrize("options", [[], ["--working-dir", "."]])
def test_ray_job_submit(cluster, study, options):
    environment = {**ENVIRONMENT, "RAY_API_SERVER_ADDRESS": cluster}
    command = [BIN / "ray", "job", "submit", *options, "--", "orchestrator/sweep.py"]
    job = subprocess.run(
        [*command, str(study), "--db", str(study.parent / "t.db")],
        env=environment, cwd=ROOT, text=True, capture_output=True, timeout=240,
    )  # fmt: skip
    assert job.returncode == 0, job.stdout + job.stderr
    assert results_of(study)["experiment_id"].nunique() == 3
