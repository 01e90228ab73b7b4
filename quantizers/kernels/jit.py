"""Loops compiled by Numba for the CPU, without the interpreter lock, cached on disk.

Several processes may compile at once: each function has one signature, so all write the same file,
and Numba replaces files atomically.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def compiled(
    function: Callable[..., None], signature: str, fastmath: frozenset[str] = frozenset()
) -> Callable[..., None]:
    """`function` for arrays of this signature; fastmath: LLVM's flags of floating-point freedom."""
    import numba  # takes half a second: only when needed

    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": set(fastmath)}
    try:
        return numba.njit(signature, cache=True, **options)(function)
    except RuntimeError:  # no folder on this machine can hold the cache
        return numba.njit(signature, **options)(function)
