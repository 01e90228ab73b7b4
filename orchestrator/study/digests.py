"""The sha256 of large files: computed once, then remembered by path, size and time of change."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

_SETTLED_SECONDS = 2.0  # a file that changes within a tick of its clock would look the same


def file_digest(file: Path) -> bytes:
    """sha256 over every byte of a file; at about a gigabyte a second the first time."""
    file = file.resolve()
    status = file.stat()
    stamp = [status.st_size, status.st_mtime_ns]
    remembered = _remembered()
    known = remembered.get(str(file))
    if isinstance(known, list) and known[:2] == stamp:
        with suppress(ValueError, TypeError, IndexError):
            return bytes.fromhex(known[2])
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").digest()
    if time.time_ns() - status.st_mtime_ns > _SETTLED_SECONDS * 1e9:
        _remember(str(file), [*stamp, digest.hex()])
    return digest


def _path() -> Path:
    cache = os.environ.get("KBIT_CACHE") or "~/.cache/kbit"
    return Path(cache).expanduser() / "digests.json"


def _remembered() -> dict[str, object]:
    with suppress(OSError, ValueError):
        content = json.loads(_path().read_text())
        if isinstance(content, dict):
            return content
    return {}  # none yet, or damaged: hashed again


def _remember(file: str, entry: list[object]) -> None:
    path = _path()
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with suppress(OSError):  # a cache that cannot be written costs time alone
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(_remembered() | {file: entry}))
        os.replace(partial, path)
    with suppress(OSError):
        partial.unlink(missing_ok=True)
