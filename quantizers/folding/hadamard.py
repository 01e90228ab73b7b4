"""Random orthogonal matrices that spread outliers over all channels (QuIP#, QuaRot)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROWS_AT_ONCE = 4096  # of a product: in fp64 an embedding of a large vocabulary takes memory


@dataclass(frozen=True)
class Rotation:
    """R [width, width] = diag(signs) (H / sqrt(2^k) x Q): H of Sylvester's construction.

    width = 2^k m, m odd; x is Kronecker's product; Q [m, m] is a random orthogonal matrix, signs
    are random, both by `seed`. R is never formed: a row takes k additions a channel, and m.
    """

    width: int
    seed: int = 0

    def rows(self, x: Tensor) -> Tensor:
        """x R, fp64 [n, width], on the device of x."""
        return torch.cat([self._rows(part) for part in x.split(ROWS_AT_ONCE)])

    def _rows(self, x: Tensor) -> Tensor:
        signs, odd = (part.to(x.device) for part in self._parts())
        power = self.width // len(odd)
        y = (x.double() * signs).view(len(x), power, len(odd))
        half = 1
        while half < power:
            pairs = y.view(len(x), power // (2 * half), 2, half, len(odd))
            first, second = pairs[:, :, 0], pairs[:, :, 1]
            y = torch.stack([first + second, first - second], 2).view(y.shape)
            half *= 2
        return ((y @ odd) / power**0.5).reshape(len(x), self.width)

    def _parts(self) -> tuple[Tensor, Tensor]:
        """Signs [width] and Q, fp64."""
        generator = torch.Generator().manual_seed(self.seed)
        signs = torch.randint(2, (self.width,), generator=generator).double() * 2 - 1
        odd = self.width // (self.width & -self.width)
        q, r = torch.linalg.qr(torch.randn(odd, odd, generator=generator, dtype=torch.float64))
        return signs, q * r.diagonal().sign()
