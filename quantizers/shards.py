"""A checkpoint read piece by piece: its model without weights, each tensor when it is asked for.

What `loading.load_model` holds whole, for models that need not fit into memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from quantizers.checkpoint import Checkpoint, UnusableModel, check_folder
from quantizers.loading import in_one_line, load_tokenizer, located, skeleton
from quantizers.packed import sixteen_bit
from quantizers.soundness import check_vocabulary, key_problem


class Shards(Mapping[str, Tensor]):
    """The tensors of a checkpoint by the model's own names, in 16 bit; tied ones by each name."""

    def __init__(self, model: Any, files: list[Path], load_dtype: torch.dtype) -> None:
        """model: the skeleton. Raises UnusableModel for keys that lack or are too many, for other
        shapes, and where weights are rearranged on loading (most mixtures of experts)."""
        self._half = sixteen_bit(load_dtype)
        self._files = [_File(file) for file in files]
        stored = {key: file for file in self._files for key in file.shapes}
        names = _renamed(model, list(stored))
        self._places = {name: (stored[key], key) for key, name in names.items()}
        for group in _tied(model):
            found = next((self._places[name] for name in group if name in self._places), None)
            if found is not None:
                self._places.update(dict.fromkeys(group, found))
        if problem := key_problem(self._report(model)):
            raise UnusableModel(f"{files[0].parent} {problem} ({type(model).__name__})")

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, name: str) -> Tensor:
        """Raises UnusableModel for NaN, and for what overflows 16 bit."""
        file, key = self._places[name]
        stored = file.read(key)
        if not stored.is_floating_point():
            return stored
        tensor = stored.to(self._half)
        if not torch.isfinite(tensor).all():
            kind = "NaN or inf" if not torch.isfinite(stored).all() else "an overflow of float16"
            raise UnusableModel(
                f"{file.path}: {key} holds {kind}: the checkpoint is damaged, or needs another "
                "dtype (bfloat16)"
            )
        return tensor

    def _report(self, model: Any) -> dict[str, Any]:
        """As `transformers` accounts for the keys of a checkpoint."""
        state = model.state_dict()
        ignored = model._keys_to_ignore_on_load_unexpected or ()
        shapes = {
            name: (file.shapes[key], list(state[name].shape))
            for name, (file, key) in self._places.items()
            if name in state
        }
        return {
            "missing_keys": set(state) - set(self._places),
            "unexpected_keys": {
                name
                for name in set(self._places) - set(state)
                if not any(re.search(pattern, name) for pattern in ignored)
            },
            "mismatched_keys": [(n, *pair) for n, pair in shapes.items() if pair[0] != pair[1]],
        }


class _File:
    """A file of weights: its keys, their shapes, and one tensor at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.suffix == ".safetensors":
            self._tensors: dict[str, Tensor] = {}
            with safe_open(path, framework="pt") as file:
                keys = list(file.keys())
                self.shapes = {key: file.get_slice(key).get_shape() for key in keys}
        else:
            self._tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            self.shapes = {key: list(tensor.shape) for key, tensor in self._tensors.items()}

    def read(self, key: str) -> Tensor:
        if self._tensors:
            return self._tensors[key]
        with safe_open(self.path, framework="pt") as file:  # what was read is let go with the file
            return file.get_tensor(key)


def open_shards(checkpoint: Checkpoint) -> tuple[Any, Any, Shards]:
    """The model with parameters on the meta device (buffers are real), its tokenizer, its tensors.

    Raises UnusableModel as `load_model` does, as far as it can be told without reading weights.
    """
    from huggingface_hub import snapshot_download

    dtype = getattr(torch, checkpoint.dtype)
    try:
        checkpoint = located(checkpoint)
        folder = Path(checkpoint.source)
        if not folder.is_dir():
            with in_one_line(checkpoint.source):
                folder = Path(snapshot_download(checkpoint.source, revision=checkpoint.revision))
        files = check_folder(folder, checkpoint.weights)
        tokenizer = load_tokenizer(checkpoint)
        with in_one_line(str(folder)):
            model = skeleton(replace(checkpoint, source=str(folder), revision=None))
        check_vocabulary(model, tokenizer)
        return model.eval(), tokenizer, Shards(model, files, dtype)
    except UnusableModel as error:
        raise UnusableModel(f"model {checkpoint.name}: {error}") from error.__cause__


def _renamed(model: Any, keys: list[str]) -> dict[str, str]:
    """Key of the checkpoint -> name in the model, as `transformers` renames them on loading."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    transforms = get_model_conversion_mapping(model)
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    state, names = model.state_dict(), {}
    for key in keys:
        name, rearranged = rename_source_key(
            key, renamings, converters, model.base_model_prefix, state
        )
        if rearranged is not None:
            raise UnusableModel(
                f"{key} is rearranged on loading ({type(model).__name__}), so it cannot be read "
                "piece by piece"
            )
        names[key] = name
    return names


def _tied(model: Any) -> list[list[str]]:
    """Names of parameters that are one tensor."""
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [group for group in groups.values() if len(group) > 1]
