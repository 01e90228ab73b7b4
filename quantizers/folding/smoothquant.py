"""SmoothQuant (Xiao et al. 2023, equation 4): outliers move from activations into weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from quantizers.calibration import Statistics


def smoothquant(statistics: Statistics, readers: Iterable[Tensor], alpha: float = 0.5) -> Tensor:
    """s_j = max|X_j|^alpha / max|W_:j|^(1 - alpha), fp32 [d_in].

    statistics: of the norm's output X; readers: every matrix that reads it, [d_out, d_in]. A
    channel that X or all of W leave at zero has s_j = 1.
    """
    x = statistics.channel_max.double()
    w = torch.stack([weight.abs().amax(0).double().cpu() for weight in readers]).amax(0)
    scale = x.pow(alpha) / w.pow(1 - alpha)
    return torch.where((x > 0) & (w > 0), scale, 1.0).float()
