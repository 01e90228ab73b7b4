"""What GPTQ needs of a site's inputs: the order of its columns, and how an error in one is made up
for by those after it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_BASE = 256  # triangles up to this size are inverted directly
_COLUMNS = 128  # of an error whose cost is added up at a time
_RAISES = 3  # tries with ten times the damping of the one before


class NotPositiveDefinite(ValueError):
    """A Hessian that cannot be factored, however much its diagonal is raised."""


@dataclass(frozen=True)
class Factor:
    """Of a damped, ordered H = U^-1 U^-T, U upper triangular: U^T U = H^-1.

    All rows of all matrices that read the same input share it.
    """

    order: Tensor  # int64 [d_in]: the column at each step
    ratios: Tensor  # fp32 [d_in, d_in]: U[k, i] / U[k, k] at [i, k], k < i; 0 elsewhere
    weights: Tensor  # fp64 [d_in], by step: 1 / U[k, k]^2, what a squared error costs
    damping: float  # that was added, as a share of the mean of diag H
    added: Tensor  # fp64 [d_in], by column: to the diagonal of H
    dead: Tensor  # bool [d_in], by column: whose input is always 0

    def cost(self, hessian: Tensor, error: Tensor) -> float:
        """tr(D H D^T) of an error D, fp32 [d_out, d_in - c], with the damped H, fp32: what GPTQ
        makes small; c columns at the end have none."""
        total = (error.double().square().sum(0) * self.added[: error.shape[1]]).sum()
        for begin in range(0, error.shape[1], _COLUMNS):
            block = error[:, begin : begin + _COLUMNS]
            end = begin + block.shape[1]
            # H is symmetric: what earlier columns have in common with these counts twice.
            outputs = block @ hessian[begin:end, begin:end]
            outputs.addmm_(error[:, :begin], hessian[:begin, begin:end], alpha=2)
            total += outputs.mul_(block).sum(dtype=torch.float64)
        return float(total)


def factor(
    hessian: Tensor, kept: int = 0, order: bool = True, damping: float = 0.01, name: str = "H"
) -> Factor:
    """Factor H (2/n sum x x^T, floating [d_in, d_in]), in fp64 on its device.

    The last `kept` columns are those that stay in 16 bit; they come last, to take up error. The
    others come by descending diag H, ties to the lower index, or as they are. A column with H_ii =
    0 is dead: it gets H_ii = 1, which leaves it to be rounded to nearest. `damping` times the mean
    of the other H_ii is added to the diagonal; where the factorization fails, ten times as much, up
    to three times (Frantar et al. 2022, section 3.3 and the authors' code).

    Raises NotPositiveDefinite, naming the site, when it still fails, and ValueError for NaN or inf.
    """
    exact = hessian.double()
    if not torch.isfinite(exact).all():
        raise ValueError(f"{name}: the Hessian has NaN or inf")
    diagonal = exact.diagonal().clone()
    dead = diagonal == 0
    live = diagonal[~dead]
    # An exact division: scaling H by a power of two changes no bit of what follows.
    scale = 2.0 ** math.frexp(float(live.mean()))[1] if live.numel() else 1.0
    exact, diagonal = exact / scale, diagonal / scale
    free = len(diagonal) - kept
    steps = torch.arange(len(diagonal), device=exact.device)
    if order:
        steps[:free] = torch.sort(diagonal[:free], descending=True, stable=True).indices
    mean = float(diagonal[~dead].mean()) if live.numel() else 1.0
    for _ in range(1 + _RAISES):
        raised = torch.where(dead, 1.0, diagonal + damping * mean)
        damped = exact.diagonal_scatter(raised)[steps][:, steps]
        # Upside down, the upper triangular root of H is a lower one, which Cholesky gives.
        lower, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
        if not int(failed):
            root = lower.diagonal()
            ratios = invert_unit_triangle(lower / root).flip(0, 1).T.float()
            return Factor(
                steps, ratios.tril(-1).contiguous(), root.flip(0).square() * scale, damping,
                torch.where(dead, 1.0, damping * mean).double() * scale, dead,
            )  # fmt: skip
        damping *= 10
    raise NotPositiveDefinite(
        f"{name}: the Hessian cannot be factored, even with {damping / 10:g} of its mean diagonal "
        "added; calibrate on more tokens"
    )


def invert_unit_triangle(lower: Tensor) -> Tensor:
    """The inverse of a lower triangle with ones on its diagonal, by halves."""
    n = len(lower)
    if n <= _BASE:
        eye = torch.eye(n, dtype=lower.dtype, device=lower.device)
        return torch.linalg.solve_triangular(lower, eye, upper=False, unitriangular=True)
    half = n // 2
    first, last = (
        invert_unit_triangle(lower[:half, :half]),
        invert_unit_triangle(lower[half:, half:]),
    )
    inverse = torch.zeros_like(lower)
    inverse[:half, :half], inverse[half:, half:] = first, last
    inverse[half:, :half] = -(last @ (lower[half:, :half] @ first))
    return inverse
