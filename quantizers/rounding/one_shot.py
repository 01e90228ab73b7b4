"""One-shot rounding of the matrices that read an input, at all settings, in one go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quantizers.blockwise import dequantize, round_to_nearest
from quantizers.outliers import PackedMatrix, Parts, scaled_body, split
from quantizers.rounding.factor import factor
from quantizers.rounding.gptq import gptq
from quantizers.rounding.problem import Problem
from quantizers.setting import Setting

LOSS, LOSS_NEAREST = "loss", "loss_nearest"  # quantities of a record


@dataclass(frozen=True, eq=False)
class Request:
    """A matrix and what is to be done to it. Settings of one matrix share its tensor."""

    name: str  # of the matrix, for errors
    weight: Tensor  # [d_out, d_in], fp16, bf16 or fp32
    setting: Setting  # of method gptq
    columns: Tensor | None = None  # int64 [c], ascending: kept in 16 bit


@dataclass(frozen=True)
class OneShot:
    """A matrix that was rounded, and how it went."""

    matrix: PackedMatrix
    loss: float  # tr(D H D^T) of its error D with the damped H
    loss_nearest: float  # the same of rounding to nearest with these scales
    damping: float  # that it took, as a share of the mean of diag H
    dead: int  # inputs that are always 0

    @property
    def record(self) -> dict[str, float | str]:
        """How it went, by quantity."""
        return {
            LOSS: self.loss,
            LOSS_NEAREST: self.loss_nearest,
            "damping": self.damping,
            "dead": self.dead,
        }


def one_shot(requests: Sequence[Request], hessian: Tensor) -> list[OneShot]:
    """Round by GPTQ; hessian: of the input they share, (2/n) sum x x^T, floating [d_in, d_in].

    Requests with the same kept columns and options share a factor of H and a column loop. Raises
    ValueError, naming a matrix, as `quantize_matrix`, `factor` and `gptq` do.
    """
    groups: dict[tuple, list[int]] = {}
    hessian = hessian.float()
    for i, request in enumerate(requests):
        kept = () if request.columns is None else tuple(request.columns.tolist())
        setting = request.setting
        options = setting.gptq_order, setting.gptq_damping, setting.gptq_dead
        groups.setdefault((kept, *options), []).append(i)
    done: dict[int, OneShot] = {}
    for members in groups.values():
        found = _group([requests[i] for i in members], hessian)
        done |= dict(zip(members, found, strict=True))
    return [done[i] for i in range(len(requests))]


def _group(requests: Sequence[Request], hessian: Tensor) -> list[OneShot]:
    first, setting = requests[0], requests[0].setting
    order, damping = setting.gptq_order, setting.gptq_damping
    parts: dict[int, Parts] = {}  # settings of a matrix share them
    weights: dict[int, Tensor] = {}
    for request in requests:
        key = id(request.weight)
        if key not in parts:
            parts[key] = split(request.weight, request.columns, request.name)
            weights[key] = request.weight
            if parts[key].columns.numel():
                places = torch.cat([parts[key].rest, parts[key].columns])
                weights[key] = request.weight[:, places]
    apart = parts[id(first.weight)]
    places = torch.cat([apart.rest, apart.columns])
    h = hessian.to(first.weight.device)[places][:, places]
    factored = factor(h, len(apart.columns), order, damping, first.name)
    if setting.gptq_dead == "zero" and factored.dead.any():
        weights = {key: weight.masked_fill(factored.dead, 0) for key, weight in weights.items()}
    problems = [
        Problem(weights[id(r.weight)], scaled_body(parts[id(r.weight)], r.setting, r.name, hessian))
        for r in requests
    ]
    columns = apart.columns.to(torch.int32)
    return [
        OneShot(
            PackedMatrix(problem.q, columns, rounded.kept),
            float(rounded.losses.sum()),
            factored.cost(h, _nearest_error(problem)),
            factored.damping,
            int(factored.dead.sum()),
        )
        for problem, rounded in zip(problems, gptq(problems, factored), strict=True)
    ]


def _nearest_error(problem: Problem) -> Tensor:
    """What rounding to nearest with the same constants leaves, fp32 in q's shape."""
    q = replace(problem.q, words=torch.empty_like(problem.q.words))
    body = problem.weight[:, : q.shape[1]].contiguous()
    round_to_nearest(body, q)
    return dequantize(q).float() - body.float()
