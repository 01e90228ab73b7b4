"""What the key-value cache would hold, rounded where it leaves the projections.

Before rotary embeddings, token by token: a prefix that sequences share is rounded once, and no
score sees the future.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from quantizers.activations.cache_format import CacheFormat
from quantizers.activations.codes import beyond, clamped_share, tensor_codes, token_codes
from quantizers.architectures import cache_problem
from quantizers.calibration import Statistics
from quantizers.folding.fold import Fold
from quantizers.wiring import Site, Wiring


@dataclass(frozen=True, eq=False)
class CachedRows:
    """The keys or the values among what a site gives."""

    name: str  # keys | values
    rows: Tensor  # int64 [n], on the device of the site
    maximum: float | None = None  # of a static format: the largest magnitude


@dataclass(frozen=True, eq=False)
class RoundedCache:
    """In place of a module's forward: what it gives, keys and values rounded, [..., d_out]."""

    forward: Callable[[Tensor], Tensor]
    bits: int
    parts: tuple[CachedRows, ...]
    beyond: dict[str, list[tuple[Tensor, int]]] = field(default_factory=dict)  # of each call

    @property
    def clamped(self) -> dict[str, float | str]:
        """`keys_clamped`, `values_clamped`: the share of what a static scale has rounded that lay
        beyond its range."""
        shares = {name: clamped_share(calls) for name, calls in self.beyond.items()}
        return {f"{name}_clamped": share for name, share in shares.items() if share is not None}

    def __call__(self, x: Tensor) -> Tensor:
        y = self.forward(x)
        for part in self.parts:
            kept = y[..., part.rows].flatten(0, -2)
            if part.maximum is None:
                codes = token_codes(kept, self.bits)
            else:
                calls = self.beyond.setdefault(part.name, [])
                calls.append((beyond(kept, self.bits, part.maximum), kept.numel()))
                codes = tensor_codes(kept, self.bits, part.maximum)
            y[..., part.rows] = codes.dequantized.to(y.dtype).view(*y.shape[:-1], -1)
        return y


def cached_rows(
    site: Site, cache: CacheFormat, statistics: Mapping[str, Statistics], folding: Fold
) -> tuple[CachedRows, ...]:
    """Keys, values, both or neither, as a site gives them.

    statistics: on calibration text, of the functions before scales went between matrices.
    """
    parts = []
    for name, rows in (("keys", site.keys), ("values", site.values)):
        if rows is None:
            continue
        maximum = None
        if cache.needs_statistics:
            seen = getattr(statistics[site.input], name)
            if seen.numel() != rows.numel():
                raise ValueError(
                    f"kv: the calibration does not see the {name} that {site.name} gives"
                )
            divisor = folding.row_scale(site)
            seen = seen if divisor is None else seen / divisor[rows]
            maximum = float(seen.max())
        parts.append(CachedRows(name, rows.to(site.parameter.device), maximum))
    return tuple(parts)


def check_cache(wiring: Wiring) -> None:
    """Raise ValueError where it is not known which matrices give keys and values."""
    if said := cache_problem(wiring.architecture, {}):
        raise ValueError(said)
