"""GPTQ's column loop on the CPU: a tile of 64 rows at a time, the rows in the lanes of a vector.

A column takes all errors before it when its turn comes, so that only errors are written. What a row
goes through is a fixed sequence of operations: neither tiles nor threads nor other rows change it.
Import it late: Numba takes half a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from quantizers.codebooks import midpoints_of
from quantizers.kernels.cpu_packed import KINDS, Arrays
from quantizers.kernels.cpu_threads import in_threads
from quantizers.kernels.jit import compiled
from quantizers.packed import sixteen_bit
from quantizers.rounding import gptq_loops as loops
from quantizers.rounding import gptq_sums as sums_of

if TYPE_CHECKING:
    from quantizers.rounding.factor import Factor
    from quantizers.rounding.problem import Problem

_ROUND = (
    "void(f4[::1], Tuple((i8[::1], f4[:, ::1], f8[::1])), UniTuple(f4[::1], 2),"
    " UniTuple(f4[::1], 2), UniTuple(i8, 7), Tuple((u2[::1], f4[:, ::1], f8[::1])),"
    " UniTuple(f4[::1], 2))"
)
_SUMS = "void(f4[::1], i8, f4[::1], f4[::1])"
_PLACE = "void(i8[::1], u2[::1], u2[:, ::1])"


def solve(problems: Sequence[Problem], factor: Factor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """As `gptq.solve`, but for the codes' type, uint16."""
    add_up = compiled(sums_of.add_up, _SUMS, frozenset({"contract"}))
    round_block = compiled(loops.round_block, _ROUND)
    put_in_place = compiled(loops.put_in_place, _PLACE)
    ratios, n = factor.ratios.numpy(), len(factor.order)
    panels = sums_of.panels(ratios)
    shared = (factor.order.numpy(), ratios, factor.weights.numpy())
    solved, tiles = [], []
    ordered: dict[int, np.ndarray] = {}  # settings of a matrix share it
    for problem in problems:
        q, d_out = problem.q, len(problem.weight)
        if id(problem.weight) not in ordered:
            ordered[id(problem.weight)] = _by_step(problem.weight, factor.order)
        weight = ordered[id(problem.weight)]
        codes = np.empty(q.shape, np.uint16)
        kept = np.empty((d_out, n - q.shape[1]), np.float32)
        losses = np.zeros(d_out)
        solved.append(tuple(torch.from_numpy(array) for array in (codes, kept, losses)))
        constants = Arrays(q).constants
        tables = _midpoints(q.codebook), q.codebook.numpy()
        layout = q.blocks.row, q.blocks.size, KINDS[q.dtype], KINDS[sixteen_bit(q.dtype)]
        for tile, first in enumerate(range(0, d_out, loops.TILE)):
            rows = slice(first, first + loops.TILE)
            results = codes[rows], kept[rows], losses[rows]
            tiles.append((weight[tile], constants, tables, (first, q.shape[1], *layout), results))

    def run(start: int, stop: int) -> None:
        errors = np.empty(n * loops.TILE, np.float32)
        sums = np.empty(loops.BLOCK * loops.TILE, np.float32)
        by_step = np.empty(n * loops.TILE, np.uint16)
        for weight, constants, tables, place, (codes, kept, losses) in tiles[start:stop]:
            results = by_step, kept, losses
            for begin in range(0, n, loops.BLOCK):
                add_up(panels, begin, errors, sums)
                at = (begin, *place)
                round_block(weight, shared, constants, tables, at, results, (errors, sums))
            put_in_place(shared[0], by_step, codes)

    in_threads(len(tiles), run, chunk=1)
    return solved  # type: ignore[return-value]


def _by_step(weight: Tensor, order: Tensor) -> np.ndarray:
    """fp32 [tiles, n * TILE]: the columns of each tile in the order of the loop."""
    n = weight.shape[1]
    rows = torch.nn.functional.pad(weight.float()[:, order], (0, 0, 0, -len(weight) % loops.TILE))
    tiles = rows.view(-1, loops.TILE, n).transpose(1, 2)
    return tiles.reshape(-1, n * loops.TILE).numpy()


def _midpoints(table: Tensor) -> np.ndarray:
    """Filled up with inf to 2^k - 1 where they are searched by halves."""
    found = midpoints_of(table).numpy()
    if found.size <= loops.LINEAR:
        return found
    whole = (1 << int(found.size).bit_length()) - 1
    return np.pad(found, (0, whole - found.size), constant_values=np.inf)
