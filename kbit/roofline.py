"""What bounds a step of generation with few sequences: the bytes it reads, and how fast they come.

Appendix E of the paper.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from kbit.decoding import wait

COPY_BYTES = {"cuda": 2**30, "cpu": 2**28}


def bytes_a_step(model: Any) -> int:
    """Bytes of the weights that one step reads: all but an input embedding that is no head too."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    if head is None or head.weight is not embedding:
        tensors.pop(id(embedding), None)
    return sum(tensor.nbytes for tensor in tensors.values())


def copy_bandwidth(device: str) -> float:
    """Bytes a second, read and written, of the fastest of a few copies.

    A step only reads; memory reads a little faster than it copies.
    """
    source = torch.ones(COPY_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    times = []
    for _ in range(20 if device == "cuda" else 6):  # a GPU raises its clocks meanwhile
        wait(source.device)
        started = time.perf_counter()
        target.copy_(source)
        wait(source.device)
        times.append(time.perf_counter() - started)
    return 2 * source.numel() / min(times)
