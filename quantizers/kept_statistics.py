"""Calibration statistics in the cache: collected once, read site by site by every setting."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from quantizers.cache import alone, read_arrays, write_arrays
from quantizers.calibration import TOKENS_A_BATCH, Statistics

_VERSION = 2  # of what is collected and how: another one is never read
_FIELDS = ("channel_max", "channel_mean", "token_max", "hessian", "keys", "values")


def statistics_key(model: str, windows: Tensor, dtypes: str, device: str) -> str:
    """sha256 of everything that statistics depend on.

    model: what identifies the 16-bit weights (id and revision); windows: int64 [n, length];
    dtypes: of loading and computing; device: "cpu" or the GPU's name. Threads count: CPU sums
    depend on them.
    """
    tokens = windows.to("cpu", torch.int64).contiguous()
    parts = {
        "version": _VERSION,
        "model": model,
        "tokens": hashlib.sha256(tokens.numpy().tobytes()).hexdigest(),
        "shape": list(tokens.shape),
        "dtypes": dtypes,
        "device": device,
        "threads": torch.get_num_threads() if device == "cpu" else None,
        "batch": TOKENS_A_BATCH,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class KeptStatistics(Mapping[str, Statistics]):
    """Statistics by site input. What is missing or damaged is collected again, all in one pass.

    Of several processes that ask at once one collects and the others wait. Where nothing can be
    kept (a full disk), they stay in memory.
    """

    def __init__(
        self,
        folder: Path,
        inputs: Iterable[str],
        collect: Callable[[], Iterable[tuple[str, Statistics]]],
    ) -> None:
        """folder: of this key alone; inputs: every name that `collect` gives."""
        self._folder = folder
        self._inputs = tuple(inputs)
        self._collect = collect
        self._memory: dict[str, Statistics] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._inputs)

    def __len__(self) -> int:
        return len(self._inputs)

    def __contains__(self, name: object) -> bool:
        return name in self._inputs  # without reading or collecting anything

    def __getitem__(self, name: str) -> Statistics:
        if name not in self._inputs:
            raise KeyError(name)
        if (found := self._find(name)) is None:
            self._collect_missing(name)
            found = self._find(name)
        if found is None:
            raise ValueError(f"calibration: nothing was collected of {name}")
        return found

    def _find(self, name: str) -> Statistics | None:
        return self._memory.get(name) or _read(self._path(name))

    def _collect_missing(self, name: str) -> None:
        with alone(self._folder / "all") as can_keep:
            if can_keep and self._find(name) is not None:
                return  # another process was first
            for collected, statistics in self._collect():
                if not can_keep or not write_arrays(self._path(collected), _arrays(statistics)):
                    self._memory[collected] = statistics

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.npz"


def _arrays(statistics: Statistics) -> dict:
    tensors = {field: getattr(statistics, field).numpy() for field in _FIELDS}
    return {**tensors, "n_tokens": torch.tensor(statistics.n_tokens).numpy()}


def _read(path: Path) -> Statistics | None:
    arrays = read_arrays(path)
    if arrays is None or not {*_FIELDS, "n_tokens"} <= arrays.keys():
        return None
    tensors = {field: torch.from_numpy(arrays[field]) for field in _FIELDS}
    return Statistics(n_tokens=int(arrays["n_tokens"]), **tensors)
