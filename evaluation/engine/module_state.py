"""What a forward leaves behind in a model's modules, so that the next one can start afresh.

Rotary embeddings that scale with the length read (dynamic, longrope) write their frequencies into
the model: the next sequence, or another thread, would read with those of the last.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_PLAIN = (bool, int, float, str, type(None), Tensor)


@dataclass(frozen=True)
class Entry:
    """One buffer or attribute of a module, and a value of it."""

    module: nn.Module
    name: str
    value: Any

    def has_changed(self) -> bool:
        """Whether the module holds another value now."""
        now, before = getattr(self.module, self.name, None), self.value
        if isinstance(now, Tensor) and isinstance(before, Tensor):
            return now.shape != before.shape or not torch.equal(now, before.to(now.device))
        return type(now) is not type(before) or now != before

    def put_back(self) -> None:
        """Give the module this value again, as a copy that it may change."""
        setattr(self.module, self.name, _copied(self.value))


def entries(model: nn.Module) -> list[Entry]:
    """All buffers and plain attributes of a model's modules as they are. Tensors are copied."""
    found = []
    for module in model.modules():
        held: dict[str, Any] = dict(module.named_buffers(recurse=False))
        held |= {name: value for name, value in vars(module).items() if isinstance(value, _PLAIN)}
        for name, value in held.items():
            found.append(Entry(module, name, _copied(value)))
    return found


def changed(before: Iterable[Entry]) -> list[Entry]:
    """Those of the entries that are no longer what they were."""
    return [entry for entry in before if entry.has_changed()]


def put_back(state: Iterable[Entry]) -> None:
    """Give modules the values of these entries again."""
    for entry in state:
        entry.put_back()


def _copied(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    with torch.inference_mode(False):  # else it could not be written to outside of that mode
        return value.detach().clone()
