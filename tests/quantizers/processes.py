"""Processes that start together: forked from one that has done what they all import."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FORK = """
{imports}
import multiprocessing

def work():
{work}

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    gate = context.Barrier({count})
    start = lambda: gate.wait() is None or work()
    workers = [context.Process(target=start) for _ in range({count})]
    for worker in workers: worker.start()
    for worker in workers: worker.join()
    assert [worker.exitcode for worker in workers] == [0] * {count}
"""


def run_together(count: int, imports: str, work: list[str], environment: dict[str, str]) -> str:
    """What `count` processes print that do `work`, lines of Python, at the same time."""
    body = "".join(f"    {line}\n" for line in work)
    done = subprocess.run(
        [sys.executable, "-c", FORK.format(imports=imports, work=body, count=count)],
        cwd=ROOT, env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
