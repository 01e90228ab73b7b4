"""Outliers planted into a model: the positive control of every claim about outliers.

In d features of each norm, gain and bias are multiplied by f and the columns of every matrix that
reads them divided by it. The function stays as it was, activations gain d outlier features a norm:
what is said to measure outliers, or to suffer from them, must follow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quantizers.wiring import wiring_of


@torch.no_grad()
def plant(model: Any, channels: int, factor: float, seed: int) -> dict[str, Tensor]:
    """Plant outliers into `model`, in place, before every linear map that a norm alone feeds.

    Returns the features of each norm, int64 [channels], ascending: drawn by seed and norm. The
    last norm, read by the head, is left alone. In fp32 the function is kept to 1e-5 relative (1e-4
    from a factor of 64 on). Raises ValueError for an architecture whose norms are not known, for
    more channels than features and for a factor that is not above 0.
    """
    if factor <= 0:
        raise ValueError(f"factor {factor}: must be above 0")
    wiring = wiring_of(model)
    norms = list(dict.fromkeys(site.norm for site in wiring.linear if site.norm is not None))
    if not norms:
        raise ValueError(f"{wiring.architecture}: no norms that linear maps alone read")
    generator = torch.Generator().manual_seed(seed)
    planted = {}
    for name in norms:
        norm = model.get_submodule(name)
        width = norm.weight.numel()
        if not 0 < channels <= width:
            raise ValueError(f"channels {channels}: {name} has {width} features")
        features = torch.randperm(width, generator=generator)[:channels].sort().values
        norm.weight[features] *= factor
        if getattr(norm, "bias", None) is not None:
            norm.bias[features] *= factor
        for site in wiring.readers(name):
            site.weight[:, features] /= factor
        planted[name] = features
    return planted
