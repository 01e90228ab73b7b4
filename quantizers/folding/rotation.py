"""Rotating the residual stream: what writes it turns by R, what reads it back (SliceGPT, QuaRot).

A norm's gain and bias go into the matrices that read it; LayerNorm's centering goes into whatever
writes the stream, which leaves RMSNorm, and that a rotation passes: norm(x R) = norm(x) R.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantizers.architectures import STREAMS, rotation_problem
from quantizers.calibration import Statistics
from quantizers.folding.fold import narrow
from quantizers.folding.hadamard import Rotation
from quantizers.folding.norms import foldable
from quantizers.folding.same_function import check_outputs, norm_inputs
from quantizers.undo import UndoLog
from quantizers.wiring import Site, Wiring

_WRITERS = ("attention_output", "down")


@dataclass(frozen=True, eq=False)
class Rotated:
    """A model whose stream is rotated. Statistics given to it are those of the rotated model."""

    rotation: Rotation
    embeddings: tuple[str, ...]
    sites: tuple[Site, ...]
    head: Site  # reads the final norm
    gains: Mapping[str, Tensor]  # fp64 [width], by norm, the final one too
    shifts: Mapping[str, Tensor]  # fp64 [d_out], what a norm's bias makes of a reader, by its name
    centers: bool  # whether the norms subtract means

    def touches(self, site: Site) -> bool:
        return site.norm is not None or site.kind in _WRITERS

    def reads_folded(self, site: Site) -> bool:
        return site.norm is not None

    def weight(self, site: Site) -> Tensor:
        weight = site.weight.double()
        if site.norm is not None:
            weight = self.rotation.rows(weight * self.gains[site.norm].to(weight.device))
        if site.kind in _WRITERS:
            weight = self._written(weight.T).T
        return weight.float()

    def row_scale(self, site: Site) -> Tensor | None:
        return None

    def channel_max(self, site: Site, seen: Statistics) -> Tensor:
        return seen.channel_max

    def statistics(
        self, given: Mapping[str, Statistics], wiring: Wiring
    ) -> Mapping[str, Statistics]:
        return given

    @torch.no_grad()
    def check(self, model: Any, wiring: Wiring) -> None:
        """See `Fold`; in fp32, while the model holds the originals."""
        readers = [*wiring.linear, self.head]
        for norm, x in norm_inputs(model, self.gains):
            module = model.get_submodule(norm)
            plain, unit = copy.deepcopy(module).float(), _Unit(module)
            y_plain, y_turned = plain(x), unit(self._written(x).float())
            for site in (reader for reader in readers if reader.norm == norm):
                before, after = y_plain @ site.weight.float().T, y_turned @ self.weight(site).T
                if site.name in self.shifts:
                    after = after + self.shifts[site.name].float().to(after.device)
                gains = self.gains[norm].abs()
                check_outputs(before, after, gains, f"{site.name} behind {norm}")

    @torch.no_grad()
    def put(self, model: Any, log: UndoLog, dtype: torch.dtype) -> int:
        more = self._put_head(model, log, dtype)
        for name in self.embeddings:
            table = model.get_submodule(name).weight
            log.will_change(table)
            table.copy_(narrow(self._written(table), dtype, f"{name}.weight"))
        more += sum(self._put_bias(site, log, dtype) for site in (*self.sites, self.head))
        for norm in self.gains:
            module = model.get_submodule(norm)
            for name, parameter in module.named_parameters(recurse=False):
                log.will_change(parameter)
                parameter.fill_(1.0 if name == "weight" else 0.0)
            log.set_forward(module, _Unit(module))
        return more

    def _written(self, vectors: Tensor) -> Tensor:
        """Vectors [n, width] that enter the stream, as they enter it now, fp64."""
        vectors = vectors.double()
        if self.centers:
            vectors = vectors - vectors.mean(1, keepdim=True)
        return self.rotation.rows(vectors)

    def _put_head(self, model: Any, log: UndoLog, dtype: torch.dtype) -> int:
        """Returns its bits where it was tied to the embedding: now it is a matrix of its own."""
        module, old = self.head.module, self.head.parameter
        new = narrow(self.weight(self.head), dtype, self.head.weight_name).to(old.dtype)
        if any(model.get_submodule(name).weight is old for name in self.embeddings):
            log.set_parameter(module, "weight", nn.Parameter(new, requires_grad=False))
            return 16 * new.numel()
        log.will_change(old)
        old.copy_(new)
        return 0

    def _put_bias(self, site: Site, log: UndoLog, dtype: torch.dtype) -> int:
        """Returns its bits where the matrix had none."""
        bias, shift = getattr(site.module, "bias", None), self.shifts.get(site.name)
        if shift is not None:
            new = shift if bias is None else shift + bias.double()
        elif bias is not None and site.kind in _WRITERS:
            new = self._written(bias[None])[0]
        else:
            return 0
        new = narrow(new, dtype, f"{site.name}.bias").to(site.parameter.dtype)
        if bias is None:
            log.set_parameter(site.module, "bias", nn.Parameter(new, requires_grad=False))
            return 16 * new.numel()
        log.will_change(bias)
        bias.copy_(new)
        return 0


class _Unit:
    """In place of a norm's forward: the norm of vectors whose mean is 0, gain 1, without bias."""

    def __init__(self, norm: Any) -> None:
        self._eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon

    def __call__(self, x: Tensor) -> Tensor:
        y = nn.functional.rms_norm(x.float(), x.shape[-1:], eps=self._eps)
        return y.to(x.dtype)


@torch.no_grad()
def rotate(model: Any, wiring: Wiring, seed: int) -> Rotated:
    """The stream of a model in a random basis. Changes nothing yet.

    Raises ValueError for an architecture that does not allow it.
    """
    if problem := rotation_problem(wiring.architecture):
        raise ValueError(problem)
    names, norms = STREAMS[wiring.architecture], foldable(wiring)
    final = model.get_submodule(names.final_norm)
    first = model.get_submodule(names.embeddings[0])
    width = final.weight.numel() if getattr(final, "weight", None) is not None else 0
    if first.embedding_dim != width:
        raise ValueError(
            f"folding: hadamard: this {wiring.architecture} has no final norm with gains, or "
            "projects its embeddings; set it to none"
        )
    if any(site.expert is not None for site in wiring.linear):
        raise ValueError(f"folding: hadamard: {wiring.architecture!r} has experts; set it to none")
    head = _head(model, names.final_norm)
    modules = {norm: model.get_submodule(norm) for norm in (*norms, names.final_norm)}
    shifts = {
        site.name: site.weight.double() @ bias.double()
        for site in (*wiring.linear, head)
        if site.norm is not None and (bias := getattr(modules[site.norm], "bias", None)) is not None
    }
    return Rotated(
        Rotation(width, seed),
        names.embeddings,
        wiring.linear,
        head,
        {norm: module.weight.double() for norm, module in modules.items()},
        shifts,
        isinstance(final, nn.LayerNorm),
    )


def _head(model: Any, norm: str) -> Site:
    module = model.get_output_embeddings()
    name = next(name for name, other in model.named_modules() if other is module)
    return Site(name, module, module.weight, "head", norm=norm, input=name)
