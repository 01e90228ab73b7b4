"""Work on the CPU in as many threads as torch uses, without the interpreter lock."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch

# Elements a chunk: a multiple of 64 (whole words), and too few for torch to start threads itself.
CHUNK = 2**14
# Pieces of the work for each thread.
_PIECES = 4


def in_threads(n: int, run: Callable[[int, int], None], chunk: int = CHUNK) -> None:
    """run(first, last) over n elements, in parallel where it pays; every first is whole chunks.

    Each thread takes the next piece when it has done one, so that one which starts late, or shares
    its core, does not hold the others up.
    """
    threads = min(torch.get_num_threads(), n // chunk)
    if threads <= 1:
        run(0, n)
        return
    piece = -(-n // (threads * _PIECES * chunk)) * chunk
    firsts = iter(range(0, n, piece))

    def take_pieces() -> None:
        for first in firsts:  # the interpreter lock keeps two threads from taking the same
            run(first, min(first + piece, n))

    pool = _helpers(threads - 1, os.getpid())
    others = [pool.submit(take_pieces) for _ in range(threads - 1)]
    take_pieces()
    for other in others:
        other.result()


@lru_cache(maxsize=1)
def _helpers(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that stay: the system starts a new one on its parent's core, and takes longer to move
    it than a matrix takes. A fork of this process has none of them, so it makes its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="kbit-cpu")
