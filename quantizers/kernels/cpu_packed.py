"""What the CPU's loops are given: a packed tensor as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from quantizers.granularity import Blocks
from quantizers.kernels.cpu_threads import CHUNK
from quantizers.kernels.reference import padded_table
from quantizers.packed import PackedTensor

# What is stored.
FP32, FP16, BF16 = 0, 1, 2
KINDS = {torch.float32: FP32, torch.float16: FP16, torch.bfloat16: BF16}


@dataclass(frozen=True)
class Arrays:
    """Each made when it is first asked for."""

    q: PackedTensor

    @cached_property
    def words(self) -> np.ndarray:
        """uint32, the index stream; shares the tensor's memory."""
        return self.q.words.numpy().view(np.uint32)

    @cached_property
    def constants(self) -> tuple[np.ndarray, np.ndarray]:
        """fp32, absmax and mean: one a block, or no means."""
        return _fp32(self.q.absmax), _fp32(self.q.mean)

    @cached_property
    def table(self) -> np.ndarray:
        """fp32 [2^bits]."""
        return padded_table(self.q).numpy()

    @property
    def bits(self) -> int:
        return self.q.bits

    @property
    def blocks(self) -> Blocks:
        return self.q.blocks


def bits_of(values: Tensor) -> np.ndarray:
    """fp32 values, or the bits of 16-bit ones, which NumPy has no bf16 for; shares the memory."""
    return (values if values.dtype == torch.float32 else values.view(torch.uint16)).numpy()


def typed(values: np.ndarray) -> str:
    """Numba's name of a contiguous array's type."""
    return f"{values.dtype.kind}{values.dtype.itemsize}[::1]"


def _fp32(constants: Tensor | None) -> np.ndarray:
    """By chunks: torch's own threads, once started, keep a core busy for a while."""
    if constants is None:
        return np.empty(0, np.float32)
    wide = torch.empty(constants.numel())
    for part, narrow in zip(wide.split(CHUNK), constants.split(CHUNK), strict=True):
        part.copy_(narrow)
    return wide.numpy()
