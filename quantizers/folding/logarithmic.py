"""Logarithmic activation equalization (FPTQ, Li et al. 2023, equation 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from quantizers.calibration import Statistics


def logarithmic(statistics: Statistics, alpha: float = 1.0) -> Tensor:
    """s_j = m_j / log2(2 + m_j)^alpha with m_j = max|X_j|, fp32 [d_in]; s_j = 1 where m_j = 0.

    Channel maxima are log2(2 + m_j)^alpha afterwards. The paper puts alpha into equation 5, which
    can be read in several ways; this one is equation 1 at alpha = 1.
    """
    m = statistics.channel_max.double()
    return torch.where(m > 0, m / torch.log2(2 + m).pow(alpha), 1.0).float()
