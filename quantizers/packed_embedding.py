"""An embedding that holds its table packed."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from quantizers.linear import HoldsPacked
from quantizers.outliers import PackedMatrix, dequantize_matrix


class PackedTable(HoldsPacked):
    """Mixed into an embedding's class: `weight` is dequantized whenever it is read, whole, to the
    type that the model computes in. What the class does beside looking up (offsets, scales) stays.
    """

    like: Tensor  # empty, of that type: it follows the model's

    @property
    def weight(self) -> Tensor:
        return dequantize_matrix(self.matrix).to(self.like.dtype)


@cache
def _packed_class(kind: type) -> type:
    return type(f"KBit{kind.__name__}", (PackedTable, kind), {})


def pack_embedding(module: nn.Embedding, matrix: PackedMatrix, output_dtype: torch.dtype) -> None:
    """Make an embedding without a weight one that looks up in `matrix` and gives `output_dtype`,
    in place."""
    module.__class__ = _packed_class(type(module))  # type: ignore[arg-type]
    module._hold(matrix)  # type: ignore[operator]
    like = torch.empty(0, dtype=output_dtype, device=matrix.body.device)
    module.register_buffer("like", like, persistent=False)
