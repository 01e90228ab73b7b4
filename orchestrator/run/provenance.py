"""Where and with what an attempt ran: stored with every one of them."""

from __future__ import annotations

import platform
import resource
import socket
import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from orchestrator.paths import IS_CHECKOUT, ROOT

_PACKAGES = ("kbit-scaling", "torch", "transformers", "lm-eval", "numpy")


def here(device: str = "") -> dict[str, Any]:
    """Host, versions and commit of this process, and the device's name: fields of a JobResult."""
    return {
        "host": socket.gethostname(),
        "device": device,
        "versions": _versions(),
        "git_commit": _git_commit(),
    }


@cache
def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


@cache
def _git_commit() -> str | None:
    """The commit this code runs from, `-dirty` with local changes; None outside a checkout."""
    if not IS_CHECKOUT:  # an environment may lie in somebody else's
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        git = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return git.stdout.strip() or None


def device_name(device: str) -> str:
    """What `cpu` or `cuda` is on this machine."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    return platform.processor() or platform.machine()


def reset_peak_memory(device: str) -> None:
    """Let `peak_memory` count from here."""
    if device == "cuda":
        import torch

        for number in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(number)
    else:
        with suppress(OSError):  # Linux alone has it
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: str) -> int:
    """Bytes: allocated on the GPUs (the most on each), else resident in the process, at most since
    the reset."""
    if device == "cuda":
        import torch

        seen = range(torch.cuda.device_count())
        return sum(torch.cuda.max_memory_allocated(number) for number in seen)
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # since the process began
