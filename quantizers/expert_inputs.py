"""What single experts of a mixture read. No module sees it, so their products are watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from quantizers.wiring import Site

Record = Callable[[str, Tensor], None]
_PRODUCTS = (torch.nn.functional.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__)


class _Watch(TorchFunctionMode):
    """Hands on what is multiplied by the matrices of experts, each told by where it lies."""

    def __init__(self, sites: Sequence[Site], record: Record) -> None:
        super().__init__()
        self._names = {_place(site.stored): site.name for site in sites}
        self._record = record

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _PRODUCTS and len(args) > 1:
            name = self._names.get(_place(args[1]))
            if name is not None:
                self._record(name, args[0])
        return func(*args, **(kwargs or {}))


def _place(matrix: Tensor) -> tuple[int, int]:
    """What two views of one matrix share."""
    return matrix.untyped_storage().data_ptr(), int(matrix.storage_offset())


@contextmanager
def watched(sites: Sequence[Site], record: Record) -> Iterator[None]:
    """Meanwhile `record` gets the name of each of these experts' matrices and what it multiplies,
    [tokens, d_in], of the tokens that are sent there.

    Experts are run one after another: in transformers' grouped products none is told apart.
    """
    if not sites:
        yield
        return
    modules: list[Any] = [site.module for site in sites]
    configs = list({id(module.config): module.config for module in modules}.values())
    before = [config._experts_implementation for config in configs]
    for config in configs:
        config._experts_implementation = "eager"
    try:
        with _Watch(sites, record):
            yield
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._experts_implementation = implementation
