"""AWQ (Lin et al. 2023, equations 4 and 5): channels that see much get finer steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from quantizers.calibration import Statistics

RATIOS = tuple(round(0.05 * i, 2) for i in range(20))  # 0, 0.05 ... 0.95


def awq(
    statistics: Statistics,
    readers: Sequence[Tensor],
    rounded: Callable[[Tensor], Tensor],
    units: Tensor | None = None,
) -> Tensor:
    """s_j = mean|x_j|^a / sqrt(max * min over channels), fp32 [d_in], the ratio a of least error.

    The error is tr(D H D^T) with D = Q(W diag(s)) diag(s)^-1 - W, summed over the readers, each
    [d_out, d_in]: that of the outputs on calibration text, of which no activation is kept. rounded:
    Q, fp32 to fp32. Of equal errors the smaller ratio is taken. A channel that sees nothing has
    s_j = 1. units: int64 [d_in], what produces each channel; channels of one unit (a value that
    serves several heads) share the mean over them, and so a scale.
    """
    device = readers[0].device
    hessian, mean = statistics.hessian.to(device), statistics.channel_mean.double()
    if units is not None:
        mean = (torch.zeros(int(units.max()) + 1).double().index_add(0, units, mean))[units]
        mean = mean / units.bincount()[units]
    least, best = torch.inf, torch.ones_like(statistics.channel_mean)
    for ratio in RATIOS:
        scale = _scale(mean, ratio)
        s = scale.to(device)
        error = 0.0
        for weight in readers:
            wide = weight.float()
            delta = rounded(wide * s) / s - wide
            error += float(((delta @ hessian) * delta).sum(dtype=torch.float64))
        if error < least:
            least, best = error, scale
    return best


def _scale(mean: Tensor, ratio: float) -> Tensor:
    live = mean > 0
    if not live.any():
        return torch.ones_like(mean).float()
    power = mean[live].pow(ratio)
    scale = torch.ones_like(mean)
    scale[live] = power / (power.max() * power.min()).sqrt()
    return scale.float()
