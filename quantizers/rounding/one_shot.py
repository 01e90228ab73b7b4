"""One-shot rounding of the matrices that read an input, at all settings, in one go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantizers.outliers import PackedMatrix, Parts, scaled_body, split
from quantizers.rounding.factor import factor
from quantizers.rounding.gptq import gptq
from quantizers.rounding.problem import Problem
from quantizers.setting import Setting


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
    damping: float  # that it took, as a share of the mean of diag H
    dead: int  # inputs that are always 0


def one_shot(requests: Sequence[Request], hessian: Tensor) -> list[OneShot]:
    """Round by GPTQ; hessian: of the input they share, (2/n) sum x x^T, floating [d_in, d_in].

    Requests with the same kept columns and options share a factor of H and a column loop. Raises
    ValueError, naming a matrix, as `quantize_matrix`, `factor` and `gptq` do.
    """
    groups: dict[tuple, list[int]] = {}
    for i, request in enumerate(requests):
        kept = () if request.columns is None else tuple(request.columns.tolist())
        options = request.setting.gptq_order, request.setting.gptq_damping
        groups.setdefault((kept, *options), []).append(i)
    done: dict[int, OneShot] = {}
    for (_, order, damping), members in groups.items():
        found = _group([requests[i] for i in members], hessian, order, damping)
        done |= dict(zip(members, found, strict=True))
    return [done[i] for i in range(len(requests))]


def _group(
    requests: Sequence[Request], hessian: Tensor, order: bool, damping: float
) -> list[OneShot]:
    first = requests[0]
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
    h = hessian.to(first.weight.device)
    factored = factor(h[places][:, places], len(apart.columns), order, damping, first.name)
    problems = [
        Problem(weights[id(r.weight)], scaled_body(parts[id(r.weight)], r.setting, r.name, hessian))
        for r in requests
    ]
    columns = apart.columns.to(torch.int32)
    return [
        OneShot(
            PackedMatrix(problem.q, columns, rounded.kept),
            float(rounded.losses.sum()),
            factored.damping,
            factored.dead,
        )
        for problem, rounded in zip(problems, gptq(problems, factored), strict=True)
    ]
