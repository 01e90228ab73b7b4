"""Statistics of inputs that come from the blocks already rounded: GPTQ's own way."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from quantizers.calibration import Statistics, collect, site_inputs
from quantizers.wiring import Wiring

_BLOCK = re.compile(r".*?\.\d+(?=\.)")  # up to the first number: what decoder blocks are told by


class SequentialInputs(Mapping[str, Statistics]):
    """By `Site.input`, collected of a model as it stands when one of a block's inputs is asked for:
    of all inputs of that block, in one pass that ends behind it.

    Asked for in forward order, while each matrix is put in place before the next is rounded, a
    block's inputs are those that the rounded blocks before it make of the windows, and all of its
    own matrices are the originals, as in the authors' code. One block's are held at a time.
    """

    def __init__(self, model: Any, wiring: Wiring, windows: Tensor) -> None:
        """model: whose weights are rounded one after another; windows: int64 [n, length]."""
        self._model, self._wiring, self._windows = model, wiring, windows
        self._names = tuple(site_inputs(wiring))
        self._block: dict[str, Statistics] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names  # without a pass

    def __getitem__(self, name: str) -> Statistics:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._block:
            self._block = {}  # goes before the next is there
            names = [other for other in self._names if _block(other) == _block(name)]
            self._block = dict(collect(self._model, self._wiring, self._windows, names=names))
        return self._block[name]


def _block(name: str) -> str:
    """The decoder block that a module belongs to; a module outside of any is its own."""
    found = _BLOCK.match(name)
    return found.group() if found else name
