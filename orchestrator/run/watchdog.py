"""Ends a private Ray cluster once its driver is gone, however it went.

Ray's agents outlive a driver that was killed by a minute, while they look for their cluster. So a
process of its own waits at a pipe that the system closes when the driver has ended, then ends what
the cluster left: all that writes to a log of a session of that driver, whose process id is the end
of the session's name. Where there is no /proc, that minute remains.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

GRACE_SECONDS = 1.0  # for those that are ending anyway


def watch() -> None:
    """End the processes of every Ray session that this process starts, when it has ended."""
    # A bare descriptor: a file object would be closed while the interpreter is still shutting down,
    # which takes seconds on a busy machine, and the driver writes to its session's logs too.
    read_end, _write_end = os.pipe()
    subprocess.Popen(
        [sys.executable, "-S", os.path.abspath(__file__), str(os.getpid())],
        stdin=read_end,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,  # Ctrl-C and a closed terminal are for the driver
    )
    os.close(read_end)


def processes_of(driver: int) -> list[int]:
    """Living processes that write to a file of a session of the driver's.

    Their environment would not do, for Ray writes their titles over it.
    """
    found = []
    session = re.compile(rf"/session_[^/]*_{driver}/")
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # ended meanwhile, or another user's
            if any(_writes(file, session) for file in (folder / "fd").iterdir()):
                found.append(int(folder.name))
    return found


def _writes(file: Path, session: re.Pattern[str]) -> bool:
    return bool(session.search(os.readlink(file)) and file.lstat().st_mode & stat.S_IWUSR)


def main(driver: int) -> None:
    """Wait for the end of standard input, then kill what the driver left."""
    sys.stdin.buffer.read()
    time.sleep(GRACE_SECONDS)
    while processes := processes_of(driver):
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
