"""Ends a private Ray cluster once its driver is gone, however it went.

Ray's agents outlive a driver that was killed by a minute, while they look for their cluster. So a
process of its own waits at a pipe that closes with the driver, then ends what the cluster left:
all that writes to a log of its session. Where there is no /proc, that minute remains.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

GRACE_SECONDS = 1.0  # for those that are ending anyway
_watchdogs: list[subprocess.Popen[bytes]] = []  # their pipes stay open as long as this process


def watch(session: str) -> None:
    """End the processes of a Ray session, by the name of its folder, when this process ends."""
    watchdog = subprocess.Popen(
        [sys.executable, "-S", os.path.abspath(__file__), session],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,  # Ctrl-C and a closed terminal are for the driver
    )
    _watchdogs.append(watchdog)


def processes_of(session: str) -> list[int]:
    """Living processes that write to a file of the session.

    Their environment would not do, for Ray writes their titles over it.
    """
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # ended meanwhile, or another user's
            if any(_writes(file, session) for file in (folder / "fd").iterdir()):
                found.append(int(folder.name))
    return found


def _writes(file: Path, session: str) -> bool:
    return f"/{session}/" in os.readlink(file) and bool(file.lstat().st_mode & stat.S_IWUSR)


def main(session: str) -> None:
    """Wait for the end of standard input, then kill what the session left."""
    sys.stdin.buffer.read()
    time.sleep(GRACE_SECONDS)
    while processes := processes_of(session):
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.1)


if __name__ == "__main__":
    main(sys.argv[1])
