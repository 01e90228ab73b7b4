"""What a setting changed in a model, and how to take it back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class UndoLog:
    """Parameters as they were before their first change, on the CPU, and actions that undo others.

    An original is kept after `undo`: the next setting changes the same parameters again.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        """`dtype`: a 16-bit type that every parameter's values fit exactly before any change."""
        self._dtype = dtype
        self._originals: dict[int, tuple[nn.Parameter, Tensor]] = {}
        self._changed: dict[int, None] = {}
        self._actions: list[Callable[[], object]] = []

    def will_change(self, parameter: nn.Parameter) -> None:
        """To be called before any change to a parameter."""
        if id(parameter) not in self._originals:
            copy = parameter.data.to("cpu", self._dtype, copy=True)
            self._originals[id(parameter)] = (parameter, copy)
        self._changed[id(parameter)] = None

    def add(self, action: Callable[[], object]) -> None:
        """Call `action` on undo: a hook's `remove`, say."""
        self._actions.append(action)

    def set_forward(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        """Let a module compute something else."""
        attributes: dict[str, Any] = module.__dict__
        before = attributes.get("forward")

        def remove() -> None:
            if before is None:
                del attributes["forward"]
            else:
                attributes["forward"] = before

        attributes["forward"] = forward
        self.add(remove)

    def set_parameter(self, module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        """Give a module a parameter that it has not, or one in place of another."""
        before = getattr(module, name)
        setattr(module, name, parameter)
        self.add(lambda: setattr(module, name, before))

    def original(self, parameter: nn.Parameter) -> Tensor:
        """The values before any change, in the 16-bit type, on the CPU if they were changed."""
        if id(parameter) in self._originals:
            return self._originals[id(parameter)][1]
        return parameter.data.to(self._dtype)

    @torch.no_grad()
    def undo(self) -> None:
        """Take everything back, bit for bit, the last first."""
        while self._actions:
            self._actions.pop()()
        for key in self._changed:
            parameter, original = self._originals[key]
            parameter.data.copy_(original)
        self._changed.clear()
