"""Freed memory is kept for the next step, in large pages.

A training step frees and asks for the same large tensors again and again. glibc gives each back to
the system at once, which then hands out zeroed pages one by one: a fifth of a small model's step.
"""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h


def keep_freed_memory() -> None:
    """For this process, from now on; large pages only if torch has made no tensor yet.

    Does nothing where the C library is not glibc. Numbers do not change.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch at its first tensor
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, 2**26)
