"""Which format each site's input has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from quantizers.activations.format import Activations
from quantizers.calibration import Statistics
from quantizers.folding.fold import Fold
from quantizers.folding.scales import NO_FOLDING
from quantizers.wiring import Site, Wiring


@dataclass(frozen=True)
class SiteFormat:
    """Of one site's input."""

    format: Activations  # token, tensor, tensor-dynamic or decomposed
    maximum: float | None = None  # tensor: the largest magnitude, after folding
    columns: Tensor | None = None  # bool [d_in], decomposed: always multiplied in 16 bit

    @property
    def keeps_originals(self) -> bool:
        """Whether 16-bit weights are held beside the quantized ones."""
        return self.format.name == "decomposed" and self.format.outlier_weights == "original"

    def held_twice(self, weight: Tensor) -> int:
        """How many weights of a matrix [d_out, d_in] are held in 16 bit beside the others."""
        if not self.keeps_originals:
            return 0
        return weight.numel() if self.columns is None else len(weight) * int(self.columns.sum())


def site_formats(
    activations: Activations,
    wiring: Wiring,
    statistics: Mapping[str, Statistics] | None = None,
    folding: Fold = NO_FOLDING,
) -> dict[str, SiteFormat]:
    """The format of every linear site, by its name.

    statistics: before folding, by `Site.input` (of a rotated model its own: by_range then goes by
    the ranges that are read). Raises ValueError for experts, whose inputs no
    module sees whole, for a policy by type where types are not known, and for a static format that
    the calibration gives no maximum.
    """
    if any(site.expert is not None for site in wiring.linear):
        raise ValueError(
            f"activations: {wiring.architecture!r} has experts, whose inputs cannot be quantized "
            "yet; set it to 16"
        )
    if activations.name == "by_type" and not wiring.knows_norms:
        raise ValueError(
            f"activations: by_type does not know the wiring of architecture "
            f"{wiring.architecture!r}; choose token, tensor or by_range"
        )
    given = statistics or {}
    chosen = {}
    for site in wiring.linear:
        if activations.needs_statistics and site.input not in given:
            raise ValueError(
                f"activations: {activations.name} needs calibration statistics of what "
                f"{site.name} reads"
            )
        seen = given[site.input] if activations.needs_statistics else None
        name = _name(activations, site, seen, folding)
        maximum, columns = None, None
        if name == "tensor" and seen is not None:
            maximum = float(folding.channel_max(site, seen).max())
        if activations.columns == "calibrated" and seen is not None:
            columns = folding.channel_max(site, seen) >= activations.threshold
        chosen[site.name] = SiteFormat(replace(activations, name=name), maximum, columns)
    return chosen


def to_be_folded(activations: Activations | None) -> Callable[[Statistics], bool]:
    """Which norms a folding takes: by_range leaves those alone whose range needs none."""
    if activations is None or activations.name != "by_range":
        return lambda _: True
    return lambda seen: activations.v0 < seen.maximum < activations.v1


def _name(activations: Activations, site: Site, seen: Statistics | None, folding: Fold) -> str:
    if activations.name == "by_type":
        return "tensor" if site.kind in ("qkv", "attention_output", "up") else "token"
    if activations.name == "by_range" and seen is not None:
        v, folded = seen.maximum, folding.reads_folded(site)
        static = v <= activations.v0 or (v < activations.v1 and folded)
        return "tensor" if static else "token"
    return activations.name
