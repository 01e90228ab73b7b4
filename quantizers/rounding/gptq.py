"""GPTQ (Frantar et al. 2022): columns are rounded one after another, and the error in each is made
up for by the columns that are still to come, as the inputs' Hessian says.

Here for any codebook, any blocks and static scales: those of rounding to nearest, so that bits,
storage and kernels stay the same. Rows are independent given the factor of H, so the rows of all
settings of a site, and of all matrices that read the same input, go through one loop: in tiles of
64 rows, the last ones of a matrix padded with zeros, so that a row's result does not depend on what
else is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantizers.blockwise import spread
from quantizers.codebooks import midpoints_of
from quantizers.kernels import pack
from quantizers.packed import PackedTensor, sixteen_bit
from quantizers.rounding.factor import Factor
from quantizers.rounding.problem import Problem

TILE = 64  # rows
LAZY = 128  # columns after which the later ones are updated


@dataclass(frozen=True)
class Rounded:
    """What is left beside the words."""

    kept: Tensor  # the c columns in 16 bit, [d_out, c]: they have taken up error
    losses: Tensor  # fp64 [d_out]: sum (w - q)^2 / U_kk^2 of a row = its part of tr(D H D^T)


def gptq(problems: Sequence[Problem], factor: Factor) -> list[Rounded]:
    """Write the words of every problem's q; all on one device, with the d_in of the factor.

    The error of a column is taken against what it dequantizes to, in the weights' type.
    Raises ValueError for a kept column that overflows 16 bit.
    """
    if problems and problems[0].weight.device.type == "cpu":
        from quantizers.rounding import cpu_gptq  # Numba takes half a second

        solved = cpu_gptq.solve(problems, factor)
    else:
        solved = solve(problems, factor)
    results = []
    for problem, (codes, kept, losses) in zip(problems, solved, strict=True):
        pack(codes.flatten(), problem.q)
        narrow = kept.to(sixteen_bit(problem.weight.dtype))
        if not torch.isfinite(narrow).all():
            raise ValueError("gptq: a 16-bit column overflows with the error it takes up")
        results.append(Rounded(narrow, losses))
    return results


def solve(problems: Sequence[Problem], factor: Factor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(codes int64 [d_out, d_in - c], kept fp32 [d_out, c], losses fp64 [d_out]) of each."""
    stack = _Stack(problems, factor.order)
    w, n = stack.weight, len(factor.order)
    ratios = factor.ratios.T  # U[k, i] / U[k, k] at [k, i]
    codes = torch.zeros(w.shape, dtype=torch.int64, device=w.device)
    losses = torch.zeros(len(w), dtype=torch.float64, device=w.device)
    for begin in range(0, n, LAZY):
        end = min(begin + LAZY, n)
        block = w[:, begin:end]
        errors = torch.zeros_like(block)
        for j in range(end - begin):
            i = begin + j
            codes[:, i], value = stack.round(block[:, j], i)
            errors[:, j] = block[:, j] - value
            losses += errors[:, j].double().square() * factor.weights[i]
            block[:, j] = value
            block[:, j + 1 :] -= errors[:, j, None] * ratios[i, i + 1 : end]
        for rows in range(0, len(w), TILE):  # products of one shape, whatever else is stacked
            w[rows : rows + TILE, end:] -= errors[rows : rows + TILE] @ ratios[begin:end, end:]
    return stack.taken_apart(codes, w, losses)


class _Stack:
    """Problems as tiles of rows, columns in the order of the loop."""

    def __init__(self, problems: Sequence[Problem], order: Tensor) -> None:
        self.problems, self.order = problems, order
        self.body = problems[0].q.shape[1]  # columns that are rounded to codes
        steps = order[: self.body]
        self.weight = self._rows(lambda p: p.weight.float()[:, order])
        self.scale = self._rows(lambda p: _of_weights(p.q.absmax, p.q)[:, steps])
        self.mean = self._rows(
            lambda p: (
                torch.zeros(p.q.shape, device=order.device)
                if p.q.mean is None
                else _of_weights(p.q.mean, p.q)[:, steps]
            )
        )
        longest = max(p.q.codebook.numel() for p in problems)
        self.midpoints = self._tiles(lambda q: midpoints_of(q.codebook), longest - 1, torch.inf)
        self.tables = self._tiles(lambda q: q.codebook, longest, 0.0)

    def round(self, w: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """(codes, what they dequantize to) of a column."""
        if step >= self.body:
            value = self._narrowed(w, kept=True)
            return torch.zeros_like(w, dtype=torch.int64), value
        scale, mean = self.scale[:, step], self.mean[:, step]
        x = torch.where(scale > 0, (w - mean) / scale, 0.0)
        tiles = x.view(len(self.tables), TILE)
        codes = torch.searchsorted(self.midpoints, tiles)
        value = self.tables.gather(1, codes).flatten() * scale + mean
        return codes.flatten(), self._narrowed(value)

    def _narrowed(self, value: Tensor, kept: bool = False) -> Tensor:
        """In the type that the weights come back in, or that kept columns have."""
        parts = value.split([-(-len(p.weight) // TILE) * TILE for p in self.problems])
        types = [sixteen_bit(p.q.dtype) if kept else p.q.dtype for p in self.problems]
        return torch.cat([part.to(t).float() for part, t in zip(parts, types, strict=True)])

    def _rows(self, make) -> Tensor:  # type: ignore[no-untyped-def]
        """[rows, columns] of all problems, each padded to whole tiles."""
        parts = []
        for problem in self.problems:
            rows = make(problem)
            parts.append(torch.nn.functional.pad(rows, (0, 0, 0, -len(rows) % TILE)))
        return torch.cat(parts)

    def _tiles(self, make, length: int, fill: float) -> Tensor:  # type: ignore[no-untyped-def]
        """[tiles, length]: a table of each tile's problem, filled up."""
        parts = []
        for problem in self.problems:
            values = make(problem.q).to(self.order.device)
            row = torch.nn.functional.pad(values, (0, length - len(values)), value=fill)
            parts.append(row.expand(-(-len(problem.weight) // TILE), -1))
        return torch.cat(parts).contiguous()

    def taken_apart(
        self, codes: Tensor, w: Tensor, losses: Tensor
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """By problem, columns where they were."""
        back, begin, found = torch.argsort(self.order), 0, []
        for problem in self.problems:
            rows = slice(begin, begin + len(problem.weight))
            begin += -(-len(problem.weight) // TILE) * TILE
            columns = codes[rows][:, back], w[rows][:, back]
            found.append((columns[0][:, : self.body], columns[1][:, self.body :], losses[rows]))
        return found


def _of_weights(constants: Tensor, q: PackedTensor) -> Tensor:
    """The constant of each weight, fp32 in q's shape."""
    return spread(constants.float(), q.blocks).view(q.shape)
