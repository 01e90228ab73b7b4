"""What serving costs, its two stages apart: reading the prompts, and generating token by token.

Context decoding is bound by arithmetic, self-decoding by the bytes of the weights (FPTQ, figure 2);
the shapes are those of Ahmadian et al. 2023, table 6.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from evaluation.speed.decoding import event_times, prompt_tokens, seconds_a_step, wait

REPEATS = 3  # of a context


@dataclass(frozen=True)
class Shape:
    """So many sequences of so many tokens in and out."""

    batch: int
    prompt: int
    output: int  # 1: the token that the prompt gives, no more

    @classmethod
    def parse(cls, text: str) -> Shape:
        """From "8x1024x1". Raises ValueError."""
        try:
            batch, prompt, output = (int(part) for part in text.split("x"))
        except ValueError:
            raise ValueError(f"shape {text!r} is not like 8x1024x1: batch, in, out") from None
        if min(batch, prompt, output) < 1:
            raise ValueError(f"shape {text!r}: batch, in and out begin at 1")
        return cls(batch, prompt, output)

    def __str__(self) -> str:
        return f"{self.batch}x{self.prompt}x{self.output}"


TABLE_6 = tuple(
    map(Shape.parse, ("1x60x1024", "2x60x1024", "4x60x1024", "8x1024x1", "16x1024x1", "8x2048x1"))
)


@dataclass(frozen=True)
class Serving:
    """Measured at one shape."""

    shape: Shape
    context: float  # seconds, median of REPEATS
    step: float | None  # seconds of a token of every sequence, in the middle of the output
    peak: int | None  # bytes of the device's memory at most; None on a CPU
    graph: bool  # steps replayed as a CUDA graph

    @property
    def latency(self) -> float:
        """Seconds from the prompts to the last token."""
        return self.context + (self.shape.output - 1) * (self.step or 0.0)

    @property
    def tokens_per_second(self) -> float:
        return self.shape.batch * self.shape.output / self.latency


def check_positions(model: Any, shapes: Sequence[Shape]) -> None:
    """Raises ValueError for a shape of more tokens than a model with learned positions has."""
    embedding = model.get_input_embeddings()
    tables = [
        m for m in model.modules() if isinstance(m, torch.nn.Embedding) and m is not embedding
    ]
    for table, shape in product(tables, shapes):
        most = table.num_embeddings - 2  # OPT's are two further on
        if shape.prompt + shape.output > most:
            raise ValueError(f"shape {shape}: the model has positions for {most} tokens")


@torch.inference_mode()
def serve(model: Any, shape: Shape, steps: int) -> Serving:
    """Time a causal LM at a shape; of its output `steps` tokens, in the middle of it."""
    device = model.get_input_embeddings().weight.device
    prompt = prompt_tokens(model, shape.batch, shape.prompt)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def read() -> None:
        model(prompt, use_cache=True, logits_to_keep=1)

    context = _median_time(read, device)
    step, graph = None, False
    if shape.output > 1:
        middle = shape.prompt + shape.output // 2
        timed = seconds_a_step(model, shape.batch, min(steps, shape.output - 1), middle)
        step, graph = timed.seconds, timed.graph
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return Serving(shape, context, step, peak, graph)


def _median_time(work: Callable[[], None], device: torch.device) -> float:
    work()  # the first time builds kernels
    if device.type == "cuda":
        return statistics.median(event_times(work, REPEATS))
    times = []
    for _ in range(REPEATS):
        wait(device)
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)
