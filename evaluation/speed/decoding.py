"""A step of generation, timed: one more token for each of a few sequences, with a KV cache.

On a GPU the step is captured as a CUDA graph and replayed: launching its hundreds of kernels from
Python takes longer than running them, and would hide what the precision changes.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import StaticCache

PROMPT_TOKENS = 16
WARM_UP = 2  # steps: the first ones build kernels


@dataclass(frozen=True)
class StepTime:
    """seconds: median of the timed steps; graph: replayed as a CUDA graph."""

    seconds: float
    graph: bool


def seconds_a_step(model: Any, batch: int, steps: int, context: int = PROMPT_TOKENS) -> StepTime:
    """Time of a step that adds one token to each of `batch` sequences of `context` tokens.

    A model that cannot be captured is timed step by step, as one on the CPU is.
    """
    if model.get_input_embeddings().weight.device.type == "cuda":
        try:
            return StepTime(_replayed(model, prompt_tokens(model, batch, context), steps), True)
        except Exception as error:  # every kind of model fails in a way of its own
            torch.cuda.synchronize()
            reason = " ".join(str(error).split())[:200]
            note = f"not captured as a CUDA graph, so launched step by step: {reason}"
            print(note, file=sys.stderr)
    return StepTime(_eager(model, prompt_tokens(model, batch, context), steps), graph=False)


class StaticStep:
    """A step on tensors that stay where they are: calling it adds a token to every sequence.

    tokens: int64 [batch, 1], the latest; logits: [batch, 1, vocabulary], of the last step.
    """

    def __init__(self, model: Any, prompt: Tensor, most_steps: int) -> None:
        """Reads the prompt, int64 [batch, n] on the model's device."""
        batch, n = prompt.shape
        self._model, self._length = model, n + most_steps
        self._cache = StaticCache(config=model.config, max_cache_len=self._length)
        self._place = torch.arange(self._length, device=prompt.device)
        self._position = torch.full((batch, 1), n, device=prompt.device)
        # What a token sees is said in full: masks that transformers makes look at values, which a
        # graph cannot.
        seen = self._place[:n, None] >= self._place
        out = model(
            prompt,
            past_key_values=self._cache,
            position_ids=self._place[:n].expand(batch, n),
            attention_mask=seen.expand(batch, 1, n, self._length),
            use_cache=True,
        )
        self.logits: Tensor = out.logits[:, -1:]
        self.tokens = self.logits.argmax(-1)

    def __call__(self) -> None:
        out = self._model(
            self.tokens,
            past_key_values=self._cache,
            position_ids=self._position,
            attention_mask=(self._place <= self._position)[:, None, None],
            use_cache=True,
        )
        self.logits = out.logits
        self.tokens.copy_(out.logits.argmax(-1))
        self._position.add_(1)


@torch.inference_mode()
def _replayed(model: Any, prompt: Tensor, steps: int) -> float:
    """Seconds of a replay among others: the next is launched while one runs, as in generation."""
    step = StaticStep(model, prompt, WARM_UP + steps)
    graph = capture(step)
    return statistics.median(event_times(graph.replay, steps))


def event_times(work: Callable[[], object], times: int) -> list[float]:
    """Seconds that each of a few calls takes the current GPU, launched without waiting for it."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
    torch.cuda.synchronize()
    events[0].record()
    for event in events[1:]:
        work()
        event.record()
    events[-1].synchronize()
    return [begin.elapsed_time(end) / 1000 for begin, end in pairwise(events)]


def capture(step: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """A graph of a step, after WARM_UP steps that build and prove its kernels."""
    stream = _side_stream(torch.cuda.current_device())
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        step()
    return graph


@cache
def _side_stream(device: int) -> torch.cuda.Stream:
    """One for all captures: cuBLAS keeps tens of MiB for every stream that it once worked on."""
    return torch.cuda.Stream(device)


@torch.inference_mode()
def _eager(model: Any, prompt: Tensor, steps: int) -> float:
    times = []
    out = model(prompt, use_cache=True)
    for step in range(WARM_UP + steps):
        token = out.logits[:, -1:].argmax(-1)
        wait(prompt.device)
        started = time.perf_counter()
        out = model(token, past_key_values=out.past_key_values, use_cache=True)
        wait(prompt.device)
        if step >= WARM_UP:
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def prompt_tokens(model: Any, batch: int, tokens: int) -> Tensor:
    """Random ones, int64 [batch, tokens] on the model's device, the same in every process."""
    weight = model.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(weight.shape[0], (batch, tokens), generator=generator)
    return prompt.to(weight.device)


def wait(device: torch.device) -> None:
    """Until all that was asked of a device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
