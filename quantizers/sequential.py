"""Statistics of inputs that come from the blocks already rounded: GPTQ's own way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from quantizers.calibration import Statistics, collect, site_inputs
from quantizers.wiring import Wiring, block_of


class SequentialInputs(Mapping[str, Statistics]):
    """By `Site.input`, collected of a model as it stands when one of a block's inputs is asked for:
    of all inputs of that block, in one pass that ends behind it.

    Asked for in forward order, while each matrix is put in place before the next is rounded, a
    block's inputs are those that the rounded blocks before it make of the windows, and all of its
    own matrices are the originals, as in the authors' code. One block's are held at a time, and
    where the architecture is known what the block before it was given, so that all blocks together
    cost two passes; else each costs a pass up to it.
    """

    def __init__(self, model: Any, wiring: Wiring, windows: Tensor) -> None:
        """model: whose weights are rounded one after another; windows: int64 [n, length]."""
        self._model, self._wiring, self._windows = model, wiring, windows
        self._names = tuple(site_inputs(wiring))
        self._statistics: dict[str, Statistics] = {}
        known = wiring.blocks if wiring.knows_norms else []
        self._shortcut = _Shortcut([model.get_submodule(name) for name in known])
        self._blocks = known

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names  # without a pass

    def __getitem__(self, name: str) -> Statistics:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._statistics:
            self._statistics = {}  # goes before the next is there
            block = _block(name)
            names = [other for other in self._names if _block(other) == block]
            number = self._blocks.index(block) if block in self._blocks else 0
            with self._shortcut.to(number):
                collected = collect(self._model, self._wiring, self._windows, names=names)
                self._statistics = dict(collected)
        return self._statistics[name]


def _block(name: str) -> str:
    """The decoder block that a module belongs to; a module outside of any is its own."""
    return block_of(name) or name


class _Shortcut:
    """Spares passes the decoder blocks whose outputs are known already.

    In a pass to block i, what block i - 2 gave, batch by batch, stands for all blocks up to it;
    what block i - 1 gives now is kept for the pass to block i + 1.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self._blocks = blocks
        self._outputs: list[Any] = []  # of block `_last`, of every batch, on the CPU
        self._last = -1

    @contextmanager
    def to(self, number: int) -> Iterator[None]:
        """For one pass, or several of the same batches; 0: nothing is spared or kept."""
        spared = self._blocks[: number - 1] if number and self._last == number - 2 else []
        before, outputs, calls = self._outputs, [], Counter[nn.Module]()

        def known(block: nn.Module) -> Any:
            device = next(block.parameters()).device

            def forward(*_args: Any, **_options: Any) -> Any:
                calls[block] += 1
                return _moved(before[(calls[block] - 1) % len(before)], device)

            return forward

        def keep(_block: nn.Module, _inputs: Any, output: Any) -> None:
            outputs.append(_moved(output, torch.device("cpu")))

        for block in spared:
            block.forward = known(block)
        hook = self._blocks[number - 1].register_forward_hook(keep) if number else None
        try:
            yield
        finally:
            for block in spared:
                del block.forward
            if hook is not None:
                hook.remove()
        self._outputs, self._last = outputs, number - 1


def _moved(output: Any, device: torch.device) -> Any:
    """What a block gives: hidden states, in some models the first of a tuple."""
    if isinstance(output, tuple):
        return tuple(_moved(part, device) for part in output)
    return output.to(device) if isinstance(output, Tensor) else output
