"""What every folding can say and do; `resident` knows no more of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from quantizers.calibration import Statistics
from quantizers.undo import UndoLog
from quantizers.wiring import Site, Wiring


class Fold(Protocol):
    """Another way to compute the function of a model. Made while it holds the originals."""

    def touches(self, site: Site) -> bool:
        """Whether the matrix of a site is another."""

    def weight(self, site: Site) -> Tensor:
        """What a site is to hold, fp32 [d_out, d_in], from what it holds, its original."""

    def reads_folded(self, site: Site) -> bool:
        """Whether what a site reads is another."""

    def row_scale(self, site: Site) -> Tensor | None:
        """fp32 [d_out], what the rows of a site were divided by, if they were, on the CPU."""

    def channel_max(self, site: Site, seen: Statistics) -> Tensor:
        """fp32 [d_in], the largest magnitudes that a site reads now; seen: its input on calibration
        text."""

    def statistics(
        self, given: Mapping[str, Statistics], wiring: Wiring
    ) -> Mapping[str, Statistics]:
        """Those of what the sites read now, by `Site.input`."""

    def check(self, model: Any, wiring: Wiring) -> None:
        """Raise ValueError where the function is not what it was, norm by norm, on a few tokens."""

    def put(self, model: Any, log: UndoLog, dtype: torch.dtype) -> int:
        """Change everything but matrices of sites, rounded once to the 16-bit dtype, after they
        were. Returns the bits that the model holds more. Raises ValueError for an overflow."""


def narrow(values: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Rounded once to a 16-bit type. Raises ValueError, by name, for one that overflows."""
    rounded = values.to(dtype)
    if not torch.isfinite(rounded).all():
        raise ValueError(f"{name}: overflows {str(dtype).removeprefix('torch.')} when folded")
    return rounded
