"""GGUF's Q4_0 and Q8_0: blocks of 32 along rows, a signed integer a weight times an fp16 scale.

Ours are integers too, times absmax / (2^(k-1) - 1), then rounded to the model's 16-bit type. With
the scale rounded to fp16 they are the same weights once they are rounded likewise: beside bfloat16
at 4 bit always, as long as the scale is a normal number of fp16; beside float16, or at 8 bit, in
some blocks only. So every block is looked at, and one that differs is refused.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantizers.blockwise import dequantize
from quantizers.export.expressible import check_expressible
from quantizers.outliers import PackedMatrix
from quantizers.packing import unpack
from quantizers.setting import Setting

BLOCK = 32
NAMES = {4: "Q4_0", 8: "Q8_0"}  # by bits


class Gguf:
    """Which settings there are blocks for."""

    def check(self, setting: Setting) -> None:
        needs = (
            (setting.data_type != "int", "data type int"),
            (setting.bits not in NAMES, "4 bit (Q4_0), or 8 (Q8_0)"),
            (setting.block_size != BLOCK, f"blocks of {BLOCK}"),
            (setting.attention_bits is not None, "one width"),
            (setting.centered, "no centering"),
            (setting.outlier_fraction, "no outlier columns"),
            (not setting.is_weight_only, "weights as they are, and 16-bit inputs"),
        )
        check_expressible(setting, "GGUF", needs)


def check_rows(name: str, d_in: int) -> None:
    """Raises ValueError, naming the matrix, for rows that blocks do not divide."""
    if d_in % BLOCK:
        raise ValueError(f"{name}: GGUF's blocks of {BLOCK} do not divide its rows of {d_in}")


def blocks_of(matrix: PackedMatrix, name: str) -> Tensor:
    """The bytes of a matrix in Q4_0 or Q8_0, by its bits: a scale of two
    bytes a block, then its integers: uint8 [d_out, 18 or 34 d_in / 32].

    Raises ValueError, naming the matrix, for rows that 32 does not divide, and unless the bytes
    stand for the same weights.
    """
    body = matrix.body
    check_rows(name, body.shape[1])
    top = 2 ** (body.bits - 1) - 1
    integers = (unpack(body.words, body.bits, body.n) - top).view(-1, BLOCK)
    scale = (body.absmax.float() / top).half()[:, None]
    restored = (scale.float() * integers).to(body.dtype)
    other = (restored != dequantize(body).view(-1, BLOCK)).any(1)
    if other.any():
        raise ValueError(
            f"{name}: {int(other.sum()):,} of its {other.numel():,} blocks would not hold the "
            f"weights that are scored: {_reason(body.bits, body.dtype)}"
        )
    if body.bits == 4:
        unsigned = (integers + 8).to(torch.uint8)
        codes = unsigned[:, : BLOCK // 2] | unsigned[:, BLOCK // 2 :] << 4
    else:
        codes = integers.to(torch.int8).view(torch.uint8)
    return torch.cat([scale.view(torch.uint8), codes], dim=1).view(body.shape[0], -1)


def _reason(bits: int, dtype: torch.dtype) -> str:
    if bits == 8:
        return (
            "Q8_0's scale, absmax / 127 in fp16, is too coarse for 8 bits but for weights of few "
            "levels (0 and the absmax); take --bits 4 in bfloat16, or another --format"
        )
    if dtype == torch.float16:
        return (
            "Q4_0's scale, absmax / 7 in fp16, is too coarse beside float16; take the model in "
            "bfloat16 (dtype of models.yaml, --dtype of a folder), or another --format"
        )
    return "Q4_0's scale, absmax / 7, is below fp16's normal numbers; take another --format"
