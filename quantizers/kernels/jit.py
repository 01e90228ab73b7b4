"""Loops compiled by Numba for the CPU, without the interpreter lock, cached on disk.

Several processes may compile at once: each function has one signature, so all write the same file,
and Numba replaces files atomically.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

log = logging.getLogger(__name__)


@cache
def compiled(
    function: Callable[..., None], signature: str, fastmath: frozenset[str] = frozenset()
) -> Callable[..., None]:
    """`function` for arrays of this signature; fastmath: LLVM's flags of floating-point freedom."""
    import numba  # takes half a second: only when needed

    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": set(fastmath)}
    for empty in (False, True):
        try:
            if empty:
                _empty_cache(numba.njit(**options)(function))
            return numba.njit(signature, cache=True, **options)(function)
        except Exception as error:  # no folder can hold the cache, or one of its files is damaged
            reason = error
    log.warning("%s is compiled in every process, nothing can be kept: %r", function, reason)
    return numba.njit(signature, **options)(function)


def _empty_cache(dispatcher: Any) -> None:
    """Forget all that is kept of a function, without reading it."""
    dispatcher.enable_caching()
    dispatcher._cache.flush()


@cache
def features() -> frozenset[str]:
    """Of the processor that Numba compiles for: this one, unless its variables name another."""
    import numba.core.config
    from llvmlite import binding

    config: Any = numba.core.config
    given = config.CPU_FEATURES
    if config.CPU_NAME is None and given is None:
        given = binding.get_host_cpu_features().flatten()
    return frozenset(name[1:] for name in (given or "").split(",") if name.startswith("+"))
