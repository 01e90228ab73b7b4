"""Outlier dimensions: features that are large in many layers and at many tokens.

Dettmers et al. 2022, as *Intriguing properties* (appendix B.3) uses it: a dimension is an outlier
if its magnitude is above a threshold at more than 25 % of the layers and 6 % of the tokens, in each
of 20 fixed windows. Layers are inputs of QKV, attention output and FFN1, three a block. Whatever
the threshold, one pass over the windows is enough: what is kept is the largest threshold at which
each dimension still is an outlier.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

WINDOWS = 20
LAYER_SHARE, TOKEN_SHARE = 0.25, 0.06
THRESHOLD = 6.0  # LLM.int8()'s
Z_THRESHOLD = 4.0


@dataclass(frozen=True)
class OutlierCount:
    """Shares are means over the outlier dimensions, of all tokens and layers; 0 without any."""

    threshold: float
    dimensions: tuple[int, ...]
    token_share: float  # tokens at which the dimension is above the threshold in some layer
    layer_share: float  # layers in which it is at some token


class OutlierScan:
    """Gathers windows of magnitudes; then any threshold can be asked for."""

    def __init__(self) -> None:
        self._by_layer: list[Tensor] = []  # a window each: [layers, d], maxima over tokens
        self._by_token: list[Tensor] = []  # [tokens, d], maxima over layers

    def add_window(self, layers: Sequence[Tensor]) -> None:
        """The magnitudes of one window: [n_tokens, d] a layer (or z-scores, see `z_scores`).

        Raises ValueError where widths or lengths differ.
        """
        if len({tuple(x.shape) for x in layers}) != 1:
            raise ValueError(f"layers of different shapes: {[tuple(x.shape) for x in layers]}")
        by_token = layers[0].float().clone()
        for x in layers[1:]:
            torch.maximum(by_token, x.float(), out=by_token)
        self._by_token.append(by_token)
        self._by_layer.append(torch.stack([x.float().amax(dim=0) for x in layers]))

    def thresholds(self) -> Tensor:
        """[d]: dimension j is an outlier at every threshold below the j-th."""
        return torch.stack(
            [
                torch.minimum(_exceeded(layers, LAYER_SHARE), _exceeded(tokens, TOKEN_SHARE))
                for layers, tokens in zip(self._by_layer, self._by_token, strict=True)
            ]
        ).amin(dim=0)

    def searched_threshold(self) -> float:
        """The lowest threshold at which one dimension is left: the paper's search, for the
        smallest model of a study."""
        return self.thresholds().sort(descending=True).values[1].item()

    def count(self, threshold: float = THRESHOLD) -> OutlierCount:
        """The outlier dimensions at a threshold, and what they affect."""
        found = (self.thresholds() > threshold).nonzero().flatten()
        if not len(found):
            return OutlierCount(threshold, (), 0.0, 0.0)
        tokens = torch.cat(self._by_token)[:, found] > threshold
        layers = torch.cat(self._by_layer)[:, found] > threshold
        shares = (tokens.double().mean().item(), layers.double().mean().item())
        return OutlierCount(threshold, tuple(found.tolist()), *shares)


def z_scores(x: Tensor) -> Tensor:
    """How many standard deviations of its token's magnitudes each magnitude is above their mean,
    for a scan with Z_THRESHOLD: |α| > µ + 4σ. [n_tokens, d] in and out."""
    magnitudes = x.float().abs()
    std, mean = torch.std_mean(magnitudes, dim=1, keepdim=True, correction=0)
    return (magnitudes - mean) / std.clamp_min(torch.finfo(torch.float32).tiny)


def _exceeded(maxima: Tensor, share: float) -> Tensor:
    """[d]: the largest value that more than `share` of the rows reach, of [rows, d]."""
    rank = math.floor(share * len(maxima))  # 0-based: more than that many are as large
    return maxima.sort(dim=0, descending=True).values[rank]
