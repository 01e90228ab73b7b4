"""A checkpoint written tensor by tensor: files of limited size, and an index of them."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

_MOST_BYTES = 2**29  # of a file, and so of what waits in memory to be written


class ShardWriter:
    """Takes tensors by name; `close` leaves `model.safetensors`, or several files with an index."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: dict[str, Tensor] = {}
        self._places: dict[str, str] = {}
        self._bytes = self._total = self._n_files = 0

    def add(self, name: str, tensor: Tensor) -> None:
        if self._bytes + tensor.nbytes > _MOST_BYTES and self._waiting:
            self._flush(f"model-{self._n_files + 1:05d}.safetensors")
        # A tensor of its own: files hold no two views of one memory.
        self._waiting[name] = tensor.detach().to("cpu").clone().contiguous()
        self._bytes += tensor.nbytes
        self._total += tensor.nbytes

    def close(self) -> None:
        if not self._n_files:
            self._flush("model.safetensors")
            return
        self._flush(f"model-{self._n_files + 1:05d}.safetensors")
        index = {"metadata": {"total_size": self._total}, "weight_map": self._places}
        text = json.dumps(index, indent=2, sort_keys=True)
        (self._folder / "model.safetensors.index.json").write_text(text + "\n")

    def _flush(self, file: str) -> None:
        save_file(self._waiting, self._folder / file, metadata={"format": "pt"})
        self._places.update(dict.fromkeys(self._waiting, file))
        self._waiting, self._bytes = {}, 0
        self._n_files += 1
