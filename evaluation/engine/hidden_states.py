"""What waits between two blocks of layers: hidden states of batches, in memory and on disk."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor


class HiddenStates:
    """Tensors by key, each put once and taken once, on the CPU: in memory up to a budget (pinned
    where they came from a GPU), in files of a folder beyond it.

    Threads may put and take different keys at the same time.
    """

    def __init__(self, folder: Path, budget: int) -> None:
        """budget: bytes; folder: is made when the budget is used up."""
        self._folder, self._budget = folder, budget
        self._held: dict[Hashable, Tensor] = {}
        self._files: dict[Hashable, Path] = {}
        self._numbers = itertools.count()
        self.bytes_held = 0

    def put(self, key: Hashable, states: Tensor) -> None:
        """Raises OSError where the disk is full."""
        if self.bytes_held + states.nbytes > self._budget:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = self._new_file()
            write(states.cpu(), file)
            self._files[key] = file
            return
        self.bytes_held += states.nbytes
        self._held[key] = _on_cpu(states)

    def take(self, key: Hashable) -> Tensor:
        """Raises KeyError for a key that was not put, or is taken already."""
        if key in self._held:
            states = self._held.pop(key)
            self.bytes_held -= states.nbytes
            return states
        file = self._files.pop(key)
        states = read(file)
        file.unlink()
        return states

    def lazy(self, key: Hashable) -> Callable[[], Tensor]:
        """What gives the states of a key, which stay."""
        return lambda: self._held[key] if key in self._held else read(self._files[key])

    def drop(self, keys: Iterator[Hashable]) -> None:
        """Let go of those of these that are there."""
        for key in keys:
            if key in self._held or key in self._files:
                self.take(key)

    def _new_file(self) -> Path:
        return self._folder / f"{next(self._numbers)}.pt"

    def close(self) -> None:
        """Let go of everything."""
        self._held.clear()
        for file in self._files.values():
            file.unlink(missing_ok=True)
        self._files.clear()
        self.bytes_held = 0

    def adopt(self, folder: Path, names: Mapping[Hashable, str]) -> None:
        """Take what `write_to` wrote to a folder, which keeps its files."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for key, name in names.items():
            self._files[key] = self._new_file()
            self._files[key].unlink(missing_ok=True)
            os.link(folder / name, self._files[key])

    def write_to(self, folder: Path) -> dict[Hashable, str]:
        """Everything as files of a folder, which takes links to those on disk. Key -> file."""
        names: dict[Hashable, str] = {}
        for number, key in enumerate([*self._held, *self._files]):
            names[key] = f"{number}.pt"
            if key in self._held:
                write(self._held[key], folder / names[key])
            else:
                os.link(self._files[key], folder / names[key])
        return names


def write(states: Tensor, file: Path) -> None:
    """A tensor on the CPU, to the disk."""
    torch.save(states.clone(), file)  # of a view the whole storage would be written


def read(file: Path) -> Tensor:
    """What `write` has written."""
    states: Tensor = torch.load(file, weights_only=True)
    return states


def _on_cpu(states: Tensor) -> Tensor:
    if states.device.type == "cpu":
        return states
    held = torch.empty(states.shape, dtype=states.dtype, pin_memory=True)
    return held.copy_(states)
