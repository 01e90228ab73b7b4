"""What bounds a step of generation with few sequences: the bytes it reads, and how fast they come.

Appendix E of the paper.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from evaluation.speed.decoding import event_times

COPY_BYTES = {"cuda": 2**30, "cpu": 2**28}


def bytes_a_step(model: Any) -> int:
    """Bytes of the weights that one step reads: all but an input embedding that is no head too."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    if head is None or head.weight is not embedding:
        tensors.pop(id(embedding), None)
    return sum(tensor.nbytes for tensor in tensors.values())


def copy_bandwidth(device: str) -> float:
    """Bytes a second, read plus written, of the fastest of a few copies of COPY_BYTES.

    A step only reads, and memory reads a little faster than it copies: a roofline from this rate
    is slightly below what reading alone could reach.
    """
    source = torch.ones(COPY_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    if device == "cuda":  # 20: it raises its clocks meanwhile
        seconds = min(event_times(lambda: target.copy_(source), 20))
    else:
        seconds = min(_wall_time(lambda: target.copy_(source)) for _ in range(6))
    return 2 * source.numel() / seconds


def _wall_time(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
