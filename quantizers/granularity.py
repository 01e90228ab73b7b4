"""Which weights share a constant. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Blocks:
    """n weights in rows of `row`, each row cut into blocks of `size`, its last one possibly short.

    Where blocks along the whole tensor are the same blocks, `row` is n.
    """

    n: int
    row: int
    size: int

    @property
    def a_row(self) -> int:
        """Blocks of a row."""
        return -(-self.row // self.size)

    @property
    def count(self) -> int:
        """Blocks, and so constants, of the tensor."""
        return -(-self.n // self.row) * self.a_row if self.n else 0

    @property
    def equal(self) -> bool:
        """Whether all blocks but the tensor's last have `size` weights: i // size is i's block."""
        return self.row >= self.n


@dataclass(frozen=True)
class Granularity:
    """Neighbouring weights share a constant: `size` of them (None: all), of one row if `by_row`.

    All four are the papers': (None, False) one constant a tensor; (B, False) blocks along the
    flattened tensor; (None, True) one constant a row; (g, True) groups along a row, which do not
    cross rows. A row is the last dimension. Raises ValueError for a size below 1.
    """

    size: int | None = None
    by_row: bool = False

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"block size: {self.size} is below 1")

    def blocks(self, shape: Sequence[int]) -> Blocks:
        """The blocks of a tensor of this shape."""
        n = math.prod(shape)
        if n == 0:
            return Blocks(0, 1, 1)
        row = shape[-1] if self.by_row and shape else n
        size = row if self.size is None else self.size
        if self.by_row:
            size = min(size, row)
        return Blocks(n, n if row % size == 0 else row, size)

    def __str__(self) -> str:
        if self.size is None:
            return "per row" if self.by_row else "per tensor"
        return f"groups of {self.size}" if self.by_row else f"B={self.size}"


TENSOR = Granularity()
ROW = Granularity(by_row=True)
