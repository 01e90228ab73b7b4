"""Devices that a machine without GPUs does not have: tensors that say they are on one, and compute
on the CPU. As on GPUs, an operation on tensors of several devices fails.

Within `fake_devices()` torch makes tensors on `device(0)`, `device(1)`, ... and moves them there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

KIND = "meta"  # with a number; operations never see it: torch has no code to guard one of others


def device(number: int) -> torch.device:
    return torch.device(KIND, number)


class Elsewhere(Tensor):
    """A tensor on such a device; `held` has its values."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __new__(cls, held: Tensor, where: torch.device) -> Elsewhere:
        made: Elsewhere = Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=where
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), options: Any = None) -> Any:
        return _run(func, args, options or {})

    def __getitem__(self, index: Any) -> Tensor:
        """Of lists among the indices torch would make tensors without values."""
        places = index if isinstance(index, tuple) else (index,)
        places = tuple(torch.tensor(p) if isinstance(p, list) else p for p in places)
        return super().__getitem__(places)

    @property
    def data(self) -> Tensor:
        return Elsewhere(self.held.detach(), self.device)

    @data.setter
    def data(self, values: Elsewhere) -> None:
        Tensor.data.__set__(self, values)  # type: ignore[attr-defined]
        self.held = values.held


class _Fake(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), options: Any = None) -> Any:
        return _run(func, args, options or {})


@contextmanager
def fake_devices() -> Iterator[None]:
    """Inference mode, in which torch makes no views of such tensors, is `no_grad` within it.
    Attention is made of plain operations: of fused kernels torch would choose without asking."""
    plain = sdpa_kernel(SDPBackend.MATH)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad(), plain, _Fake():
        patch.setattr(torch.inference_mode, "__enter__", lambda self: None)
        patch.setattr(torch.inference_mode, "__exit__", lambda self, *error: None)
        yield


def place(model: nn.Module, devices: dict[str, torch.device]) -> None:
    """Move a model's parameters and buffers: each to where a module around it is to be, or itself.
    Tied ones go where the first is."""
    moved: dict[int, Tensor] = {}
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    for name, tensor in tensors:
        if id(tensor) not in moved:
            where = next(d for n, d in devices.items() if f"{name}.".startswith(f"{n}."))
            values = Elsewhere(tensor.detach(), where)
            is_weight = isinstance(tensor, nn.Parameter)
            moved[id(tensor)] = nn.Parameter(values, False) if is_weight else values
        owner, _, own = name.rpartition(".")
        setattr(model.get_submodule(owner), own, moved[id(tensor)])


# What takes tensors of several devices on GPUs too; indices may be on the CPU.
_CROSSING = ("_to_copy", "copy_")
_INDEXING = ("index", "index_put_", "index_put", "_index_put_impl_")


def _run(func: Any, args: Any, options: dict[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    tensors: list[Tensor] = []

    def opened(x: Any) -> Any:
        if isinstance(x, list | tuple):
            return type(x)([opened(part) for part in x])
        if not isinstance(x, Tensor):
            return x
        tensors.append(x)
        return x.held if isinstance(x, Elsewhere) else x

    inside, inside_options = opened(args), {name: opened(x) for name, x in options.items()}
    where = {x.device for x in tensors if isinstance(x, Elsewhere)}
    if name not in _CROSSING:
        looked = [args[0]] if name in _INDEXING else tensors
        on_cpu = any(not isinstance(x, Elsewhere) and x.dim() for x in looked)
        if len(where) > 1 or (where and on_cpu):
            found = sorted({str(x.device) for x in tensors})
            raise RuntimeError(f"{func}: expected all tensors on one device, found {found}")
    asked = options.get("device")
    if asked is not None:
        asked = torch.device(asked)
        made_up = asked.type == KIND and asked.index is not None
        where = {asked} if made_up else set()
        inside_options["device"] = torch.device("cpu") if made_up else asked
    elif name == "copy_":
        where = {args[0].device} if isinstance(args[0], Elsewhere) else set()
    given = {id(x.held): x for x in tensors if isinstance(x, Elsewhere)}

    def closed(x: Any) -> Any:
        if isinstance(x, list | tuple):
            return type(x)(closed(part) for part in x)
        if not isinstance(x, Tensor) or not where:
            return x
        known = given.get(id(x))
        return Elsewhere(x, next(iter(where))) if known is None else known

    return closed(func(*inside, **inside_options))
