"""Batches shared out among the threads of this process, each computed on one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from evaluation.engine.layout import Batch


def on_threads(function: Callable[[int, Batch], Any], batches: Sequence[Batch]) -> list[Any]:
    """function(number, batch) of each batch, on one thread of this process's. Threads that split
    every operation instead wait for each other hundreds of times a batch, and many times longer
    where the cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(function, range(len(batches)), batches))
    finally:
        torch.set_num_threads(threads)
