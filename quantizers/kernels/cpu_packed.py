"""What the CPU's decoders are given: a packed tensor as arrays, and where it goes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# What is stored.
FP32, FP16, BF16 = 0, 1, 2
KINDS = {torch.float32: FP32, torch.float16: FP16, torch.bfloat16: BF16}


@dataclass(frozen=True)
class Packed:
    words: np.ndarray  # uint32, the index stream
    absmax: np.ndarray  # fp32, one a block
    mean: np.ndarray  # likewise, or empty
    table: np.ndarray  # fp32 [2^bits]
    bits: int
    block: int


def bits_of(values: Tensor) -> np.ndarray:
    """fp32 values, or the bits of 16-bit ones, which NumPy has no bf16 for; shares the memory."""
    return (values if values.dtype == torch.float32 else values.view(torch.uint16)).numpy()


def typed(values: np.ndarray) -> str:
    """Numba's name of a contiguous array's type."""
    return f"{values.dtype.kind}{values.dtype.itemsize}[::1]"
