"""Which models of a sweep are read block by block: those it says, or those that do not fit."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.run.device import memory_of
from orchestrator.study.experiment import Asked
from orchestrator.study.model_size import size_of
from orchestrator.study.models import ModelEntry
from orchestrator.study.spec import Compute
from orchestrator.study.streaming_check import streaming_refusal
from quantizers.units import format_bytes

# Of a parameter: on a GPU 16 bit; on a CPU fp32, and its original in 16 bit to be put back.
BYTES_RESIDENT = {"cpu": 6, "cuda": 2}
MOST_OF_MEMORY = 0.9  # the rest is for batches, and the program itself


def streamed_models(asked: Sequence[Asked], compute: Compute, device: str) -> dict[str, str]:
    """Model -> why. A model that cannot be streamed at every setting stays resident, as does one
    whose size or whose GPU's memory is not known here."""
    entries = {e.model.name: e.model for e, _ in asked}
    if compute.streaming is False:
        return {}
    if compute.streaming is True:
        return dict.fromkeys(entries, "compute.streaming")
    memory = memory_of(device)
    larger = {name: why for name, e in entries.items() if (why := _too_large(e, device, memory))}
    refused = {e.model.name for e, _ in asked if e.model.name in larger and streaming_refusal(e)}
    return {name: why for name, why in larger.items() if name not in refused}


def _too_large(entry: ModelEntry, device: str, memory: int | None) -> str | None:
    """In words, where a model does not fit the memory that it would be given."""
    size = size_of(entry)
    if memory is None or size is None:
        return None
    needed = BYTES_RESIDENT[device] * size
    shares = entry.gpus / entry.per_gpu if device == "cuda" else 1
    if needed <= MOST_OF_MEMORY * memory * shares:
        return None
    return f"takes {format_bytes(needed)}, {format_bytes(memory * shares)} are there"
