"""Site: a weight matrix of a linear map, where it is and what feeds it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

KINDS = ("qkv", "attention_output", "up", "down", "router", "embedding", "head", "other")

_BLOCK = re.compile(r".*?\.\d+(?=\.)")  # up to the first number: what decoder blocks are told by


def block_of(name: str) -> str | None:
    """The decoder block that a module belongs to; None outside of any."""
    found = _BLOCK.match(name)
    return found.group() if found else None


@dataclass(frozen=True)
class Producer:
    """Input dimension j of a site is produced by row rows[j] (int64 [d_in]) of site `site`.

    Rows are those of the output x input layout. `passes`: a row multiplied by a positive number
    multiplies the input dimensions that it produces, and changes nothing else.
    """

    site: str
    rows: Tensor
    passes: bool = False


@dataclass(frozen=True, eq=False)
class Site:
    """A weight matrix [d_out, d_in], named as its module is; an expert's ends in its number.

    `module` holds `parameter`: the matrix, or those of all experts, [experts, ...].
    """

    name: str
    module: nn.Module
    parameter: nn.Parameter
    kind: str  # one of KINDS; a gated MLP's gate is an "up"
    transposed: bool = False  # stored input x output: Conv1D, some experts
    expert: int | None = None
    producer: Producer | None = None
    norm: str | None = None  # the norm whose output it reads, if none but linear maps read it
    keys: Tensor | None = None  # int64 [n], rows that give the cache's keys, ascending
    values: Tensor | None = None  # and its values
    input: str = ""  # the first site that reads the same tensor; "" of a router, which is no site

    @property
    def stored(self) -> Tensor:
        """The matrix as it is stored, sharing the parameter's memory."""
        return self.parameter.data if self.expert is None else self.parameter.data[self.expert]

    @property
    def weight(self) -> Tensor:
        """The matrix as [d_out, d_in], sharing the parameter's memory."""
        return self.stored.T if self.transposed else self.stored

    @property
    def weight_name(self) -> str:
        """How errors name the matrix."""
        return self.name if self.expert is not None else f"{self.name}.weight"


def module_site(model: nn.Module, name: str, kind: str) -> Site:
    """The site of a linear layer. Raises ValueError for a layer of another kind."""
    module = model.get_submodule(name)
    if not isinstance(module, nn.Linear | Conv1D) or not module.weight.is_floating_point():
        raise ValueError(
            f"{name}: unknown layer type {type(module).__name__}; "
            "only nn.Linear and Conv1D with floating-point weights can be quantized"
        )
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return Site(name, module, weight, kind, isinstance(module, Conv1D), input=name)
