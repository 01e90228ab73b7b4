"""Where this program keeps what it can build again. No sweep depends on it."""

from __future__ import annotations

import logging
import os
import tempfile
from functools import lru_cache
from pathlib import Path

log = logging.getLogger(__name__)
_PROBE_BYTES = 1 << 16  # an empty file may find room on a full disk


def cache_directory() -> Path:
    """`$KBIT_CACHE`, else `~/.cache/kbit`; where nothing can be kept there (no such home, a full
    disk), a folder of this user's below the system's temporary one."""
    return _usable(Path(os.environ.get("KBIT_CACHE") or "~/.cache/kbit"))


@lru_cache(maxsize=8)
def _usable(wanted: Path) -> Path:
    try:
        folder = wanted.expanduser().resolve()
        _try_to_write(folder)
        return folder
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        other = Path(tempfile.gettempdir()) / f"kbit-cache-{os.getuid()}"
        log.warning("%s: nothing can be kept there (%s); kept in %s instead", wanted, error, other)
    other.mkdir(mode=0o700, parents=True, exist_ok=True)
    if other.is_symlink() or other.stat().st_uid != os.getuid():
        return Path(tempfile.mkdtemp(prefix="kbit-cache-"))  # somebody else made that one
    return other


def _try_to_write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix="probe-", dir=folder) as probe:
        probe.write(b"x" * _PROBE_BYTES)
