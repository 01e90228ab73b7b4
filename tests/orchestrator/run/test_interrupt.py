"""Signals and servers that end a sweep: real processes, at moments spread over their lives."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.paths import ROOT
from orchestrator.run import interrupt
from orchestrator.run.interrupt import FINISHING, STOPPED
from orchestrator.store.store import Store
from tests.orchestrator import processes
from tests.orchestrator.postgres import server

STUDY = """
models: [sotu-neox-32x2]
grids:
  - {bits: [8, 7, 6, 5, 4, 3, 2], data_type: [float, int], block_size: [64, 128]}
tasks: [sotu_blank]
limit: 20
compute: {workers: 1}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


def send(process: subprocess.Popen, number: signal.Signals, times: int, gap: float) -> None:
    """As a terminal does for Ctrl-C: to all of the group. SIGTERM to the driver alone."""
    kill = os.killpg if number == signal.SIGINT else os.kill
    for _ in range(times):
        if process.poll() is None:
            kill(process.pid, number)
            time.sleep(gap)


def check_end(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output and "Exception ignored" not in output
    assert len(re.findall("^interrupted", output, re.MULTILINE)) == 1
    return output


@pytest.mark.parametrize("times", [2, 3, 8])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_come_several_times_whenever(study, folder, number, times):
    """From the imports to the middle of the work: half a second to three on a quiet machine."""
    rng = random.Random(f"{number} {times}")
    process = processes.start(folder, study, "none", "--executor", "local", KBIT_JOB_SECONDS="0.3")
    time.sleep(rng.uniform(0.3, 4.0))
    send(process, number, times, gap=rng.choice([0.0, 0.01, 0.3]))
    check_end(process)


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(12))
def test_signals_come_several_times_with_ray(study, folder, trial):
    """While the cluster starts, works, and is being closed; nothing is left of it."""
    rng = random.Random(trial)
    process = processes.start(folder, study, KBIT_JOB_SECONDS="0.2")
    time.sleep(rng.uniform(0.3, 14.0))
    number = rng.choice([signal.SIGINT, signal.SIGTERM])
    send(process, number, rng.choice([2, 3, 8]), gap=rng.choice([0.0, 0.01, 0.3, 1.0]))
    check_end(process)
    assert processes.left_after(folder, 10) == {}


@pytest.mark.parametrize(
    ("number", "line"), [(signal.SIGINT, FINISHING), (signal.SIGTERM, STOPPED)]
)
def test_an_interrupt_says_whether_it_waits(study, folder, number, line):
    process = processes.start(folder, study, "none", "--executor", "local", KBIT_JOB_SECONDS="1.5")
    assert processes.wait_until(lambda: processes.attempts(study) > 0)
    send(process, number, 1, gap=0)
    assert line in check_end(process)


def started(program: str, *arguments: str) -> subprocess.Popen:
    """A Python program, as the head of a process group."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], text=True, cwd=ROOT, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.parametrize("wait", [0.15, 0.6])
def test_any_command_ends_in_one_line(tmp_path, wait):
    Store.create(f"sqlite:///{tmp_path}/t.db").close()
    program = "import sys, time; from kbit.cli import main; main.__globals__['import_module'] = "
    program += "lambda name: (print('imports', flush=True), time.sleep(9)); sys.exit(main())"
    process = started(program, "status", "--db", str(tmp_path / "t.db"))
    assert process.stdout.readline() == "imports\n"
    time.sleep(wait)
    send(process, signal.SIGINT, 2, gap=0)
    assert check_end(process) == STOPPED + "\n"


def end_of(body: str) -> tuple[int, list[str]]:
    """Exit code and lines of a command whose work is `body`, interrupted once it has said `go`."""
    lines = "\n    ".join(body.strip().splitlines())
    process = started(f"""
import sys, time
from orchestrator.run.interrupt import program, run_program
def wait(word="go"):
    print(word, flush=True)
    time.sleep(20)
def main():
    {lines}
    return 0
sys.exit(run_program(main))
""")
    assert process.stdout.readline() == "go\n"
    send(process, signal.SIGINT, 1, gap=0)
    output, _ = process.communicate(timeout=30)
    return process.returncode, output.splitlines()


SWALLOWED = """
for word in ("go", "on"):
    try:
        wait(word)
    except BaseException:
        pass
time.sleep(20)
print("never")
"""
CLOSING = """
try:
    wait()
finally:
    try:
        raise OSError
    except OSError:
        time.sleep(1)
    print("closed")
"""
HALF_IMPORTED = """
try:
    wait()
except BaseException:
    pass
raise AttributeError("what an import left undone")
"""
LEAVING = """
import atexit
class Kept:
    def __del__(self):
        print("never", flush=True)
sys.kept = Kept()
atexit.register(print, "closed")
wait()
"""
HELD = """
with program.held():
    print("go", flush=True)
    time.sleep(1)
    print("closed", flush=True)
print("never")
"""


def test_an_interrupt_that_a_library_swallows_comes_again():
    assert end_of(SWALLOWED) == (130, [STOPPED, "on"])


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        (CLOSING, [STOPPED, "closed"]),
        (HALF_IMPORTED, [STOPPED]),
        (LEAVING, [STOPPED, "closed"]),
        (HELD, ["closed", STOPPED]),
    ],
)
def test_what_closes_is_left_to_close(body, lines):
    assert end_of(body) == (130, lines)


def test_a_server_that_is_gone_ends_a_sweep_in_one_line(study, folder):
    with server() as pattern:
        url = pattern.format("postgres")
        program = Path(__file__).parent.parent / "faulty.py"
        process = subprocess.Popen(
            [sys.executable, program, "none", study, "--db", url, "--executor", "local"],
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT,
            env={**processes.ENVIRONMENT, "KBIT_JOB_SECONDS": "0.3"},
        )  # fmt: skip

        def stored() -> bool:
            return len(Store.open(url).attempts()) >= 2

        assert processes.wait_until(stored, 30)
        data = Path(url.partition("host=")[2]) / "data" / "postmaster.pid"
        os.kill(int(data.read_text().splitlines()[0]), signal.SIGQUIT)  # at once, with all of it
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 3, output
    assert "Traceback" not in output
    assert len(re.findall("^error: ", output, re.MULTILINE)) == 1
    assert output.splitlines()[-1].startswith("error: postgresql+psycopg://")


def test_what_was_said_is_not_said_again(monkeypatch, capsys):
    """Where a library answers the interrupt by raising one of its own, as Ray does."""
    monkeypatch.setattr(interrupt, "program", interrupt.Interrupt())
    assert interrupt.say_interrupted(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == f"{interrupt.STOPPED}\n"
    interrupt.program.stopping = True
    assert interrupt.say_interrupted(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == ""
