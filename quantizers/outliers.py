"""Proxy quantization: the input dimensions likely to carry outliers stay in 16 bit.

The weights of a unit that produces an outlier feature spread more than those of its peers, so the
standard deviation of the producing units' weights says, without any data, which input dimensions
of the next matrix to keep (paper, section 3, equation 2). Their columns leave the matrix before it
is cut into blocks and are put back after.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from quantizers import codebooks
from quantizers.blockwise import dequantize, quantize, residual, round_to_nearest, scaled
from quantizers.data_types import base_type
from quantizers.granularity import Granularity
from quantizers.packed import PackedTensor, sixteen_bit
from quantizers.rounding.clipped import clipped
from quantizers.setting import Setting


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix [d_out, d_in]: c columns in 16 bit, the other d_in - c quantized."""

    body: PackedTensor  # [d_out, d_in - c]
    columns: Tensor  # int32 [c], ascending
    kept: Tensor  # 16-bit floating [d_out, c]

    @property
    def bytes_stored(self) -> int:
        """Bytes of the body (without its codebook), the kept columns and their indices."""
        return self.body.bytes_stored + self.columns.nbytes + self.kept.nbytes


def unit_stds(weight: Tensor) -> Tensor:
    """Standard deviation of each unit's weights: fp64 [d_out] of a matrix [d_out, d_in]."""
    # A slab of rows at a time: the fp64 copy of a large matrix would be four times its size.
    return torch.cat([rows.double().std(dim=1, correction=0) for rows in weight.split(1024)])


def outlier_columns(producer_stds: Tensor, fraction: float) -> Tensor:
    """The c = ceil(p h) input dimensions of largest producer std, ties to the lower index.

    producer_stds: [h], one for each input dimension. Returns int64 [c], ascending.
    """
    # In decimal: as binary floats 0.07 * 100 is above 7.
    count = math.ceil(Fraction(str(fraction)) * producer_stds.numel())
    by_std = torch.sort(producer_stds, descending=True, stable=True).indices
    return by_std[:count].sort().values


def quantize_matrix(
    weight: Tensor,
    setting: Setting,
    columns: Tensor | None = None,
    name: str = "weight",
    hessian: Tensor | None = None,
) -> PackedMatrix:
    """Round a matrix [d_out, d_in] (fp16, bf16 or fp32) to nearest, its `columns` (int64 [c]) kept.

    A quantile codebook is made from the elements that are quantized: without the kept columns,
    less the block means if centered. hessian: of the inputs, [d_in, d_in], for clip_weighting.

    Raises ValueError, naming the matrix, as `quantize` does, also for kept columns with NaN, inf
    or values beyond the 16-bit type.
    """
    parts = split(weight, columns, name)
    if setting.scales == "absmax":
        packed = quantize(parts.body, *_format(parts.body, setting, name))
    else:
        packed = scaled_body(parts, setting, name, hessian)
        round_to_nearest(parts.body, packed)
    return PackedMatrix(packed, parts.columns.to(torch.int32), parts.kept)


@dataclass(frozen=True)
class Parts:
    """A matrix [d_out, d_in] before anything is rounded."""

    body: Tensor  # [d_out, d_in - c], what is quantized
    rest: Tensor  # int64 [d_in - c], its columns, ascending
    columns: Tensor  # int64 [c], those kept
    kept: Tensor  # 16-bit floating [d_out, c]


def split(weight: Tensor, columns: Tensor | None, name: str) -> Parts:
    """Raises ValueError, naming the matrix, for kept columns that 16 bit do not hold."""
    if columns is None:
        columns = torch.empty(0, dtype=torch.int64)
    columns = columns.to(weight.device)
    kept = weight[:, columns].to(sixteen_bit(weight.dtype))
    if not torch.isfinite(kept).all():
        raise ValueError(f"{name}: a 16-bit column has NaN, inf or a value that overflows")
    rest = _others(weight.shape[1], columns)
    return Parts(weight[:, rest] if columns.numel() else weight, rest, columns, kept)


def scaled_body(
    parts: Parts, setting: Setting, name: str, hessian: Tensor | None = None
) -> PackedTensor:
    """The body with its codebook and scales chosen, its words not written.

    hessian: of the inputs, [d_in, d_in]. Raises ValueError where the setting needs it and it is not
    there, and as `quantize` does.
    """
    packed = scaled(parts.body, *_format(parts.body, setting, name))
    if setting.scales == "absmax":
        return packed
    if setting.clip_weighting == "plain":
        return clipped(parts.body, packed)
    if hessian is None:
        raise ValueError(
            f"{name}: clip_weighting hessian needs calibration statistics of its input"
        )
    diagonal = hessian.diagonal().to(parts.rest.device)[parts.rest]
    return clipped(parts.body, packed, diagonal)


def _format(
    body: Tensor, setting: Setting, name: str
) -> tuple[Tensor, int, Granularity, bool, str]:
    """(codebook, bits, granularity, centered, name) as `quantize` takes them."""
    bits, granularity = int(setting.bits), setting.granularity
    if base_type(setting.data_type) == "quantile":
        table = codebooks.quantile(bits, residual(body, granularity, setting.centered, name))
        table = table if setting.data_type == "quantile" else codebooks.to_bytes(table)
    else:
        table = codebooks.codebook(str(setting.data_type), bits, setting.exponent_bits)
    return table, bits, granularity, setting.centered, name


def dequantize_matrix(q: PackedMatrix) -> Tensor:
    """The matrix back, [d_out, d_in] in the dtype it had."""
    body = dequantize(q.body)
    if not q.columns.numel():
        return body
    columns = q.columns.long()
    out = body.new_empty(body.shape[0], body.shape[1] + columns.numel())
    out[:, _others(out.shape[1], columns)] = body
    out[:, columns] = q.kept.to(out.dtype)
    return out


def _others(n: int, columns: Tensor) -> Tensor:
    """Indices 0..n-1 that are not in `columns`, ascending."""
    rest = torch.ones(n, dtype=torch.bool, device=columns.device)
    rest[columns] = False
    return rest.nonzero().flatten()
