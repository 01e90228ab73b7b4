"""Real sweeps as processes of their own, and what is left of them."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from orchestrator.paths import ROOT
from orchestrator.store.store import Store

BIN = Path(sys.executable).parent
ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_TMPDIR")},
    "PATH": f"{BIN}:{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # else other tests on the machine starve the workers
    "RAY_AUTH_MODE": "disabled",  # whatever token this account has
    "NO_COLOR": "1",
}


@contextmanager
def ray_folder() -> Iterator[str]:
    """A RAY_TMPDIR of one's own: no other cluster of this machine is found. Short, for sockets."""
    folder = tempfile.mkdtemp(prefix="kbit", dir="/tmp")
    yield folder
    for pid in processes_of(folder):  # a failed test may leave some
        with suppress(ProcessLookupError):  # one that was about to end
            os.kill(pid, 9)
    shutil.rmtree(folder, ignore_errors=True)


def start(
    folder: str, study: Path, faults: str = "none", *options: str, **environment: str
) -> subprocess.Popen:
    """`faulty.py` on `study` with the database t.db beside it, as the head of a process group."""
    program = Path(__file__).with_name("faulty.py")
    command = [sys.executable, program, faults, study, "--db", study.parent / "t.db", *options]
    return subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT,
        env={**ENVIRONMENT, "RAY_TMPDIR": folder, **environment}, start_new_session=True,
    )  # fmt: skip


def processes_of(folder: str, name: str = "") -> list[int]:
    """Living processes of the cluster in RAY_TMPDIR=folder whose command line holds `name`.

    Known by their environment, or, where Ray wrote a title over it, by their open files.
    """
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
            ours = f"RAY_TMPDIR={folder}".encode() in environment or any(
                os.readlink(file).startswith(f"{folder}/") for file in (entry / "fd").iterdir()
            )
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue  # ended meanwhile
        if ours and state != "Z" and name in command and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def left_after(folder: str, seconds: float = 20) -> dict[int, str]:
    """Processes of that cluster that have not ended within `seconds`, and what they run."""
    wait_until(lambda: not processes_of(folder), seconds)
    left = {}
    for pid in processes_of(folder):
        with suppress(psutil.NoSuchProcess):  # ended meanwhile
            left[pid] = psutil.Process(pid).name()
    return left


def ports_of(folder: str) -> set[int]:
    """TCP ports that the processes of that cluster listen on."""
    connections = []
    for pid in processes_of(folder):
        with suppress(psutil.NoSuchProcess):
            connections += psutil.Process(pid).net_connections()
    return {c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN}


def attempts(study: Path) -> int:
    """How many attempts the study's database holds; 0 while there is none."""
    path = study.parent / "t.db"
    return len(Store.open(f"sqlite:///{path}").attempts()) if path.exists() else 0


def has_attempts(study: Path, count: int) -> bool:
    return attempts(study) >= count


def wait_until(condition, seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if condition():
                return True
        except Exception as error:  # the tables are being made
            last = error
        time.sleep(0.1)
    assert "last" not in locals(), last
    return False
