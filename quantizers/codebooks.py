"""The k-bit data types: each a sorted table of values in [-1, 1] (paper, appendix A).

A table is an fp32 tensor on the CPU with at most 2^k distinct values, 0 among them. Tables are
computed in fp64 and rounded to fp32 once. Rounding a value to a table is a function of the table
alone, whatever the data type.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from quantizers.data_types import default_exponent_bits

_MOST_LEVEL = 2.0**15  # fp16 holds it


def _table(values: np.ndarray) -> Tensor:
    """Sorted distinct fp32 values; adding 0.0 turns -0.0 into 0.0."""
    return torch.from_numpy(np.unique(values.astype(np.float32) + np.float32(0)))


def integer(bits: int) -> Tensor:
    """Linear quantization, symmetric: i / (2^(k-1) - 1), 2^k - 1 values (appendix A)."""
    top = 2 ** (bits - 1) - 1
    return _table(np.arange(-top, top + 1) / top)


def floating(bits: int, exponent_bits: int | None = None) -> Tensor:
    """IEEE-style float with E exponent and k - 1 - E mantissa bits, without NaN and inf codes.

    Exponent bias 2^(E-1); subnormals 2^(1-bias) f/2^M continue the normals evenly. (Equation 5
    as printed makes them smaller.) All values are divided by the largest. `exponent_bits` None
    takes the default split of appendix C.4.
    """
    e_bits = default_exponent_bits(bits) if exponent_bits is None else exponent_bits
    n_mantissa = 2 ** (bits - 1 - e_bits)
    exponent, f = np.meshgrid(np.arange(2**e_bits), np.arange(n_mantissa), indexing="ij")
    significand = (exponent > 0) + f / n_mantissa
    # Exponents relative to the largest: the bias cancels, and wide exponents cannot overflow.
    relative = np.maximum(exponent, 1) - (2**e_bits - 1)
    positive = np.ldexp(significand, relative) / (2 - 1 / n_mantissa)
    return _table(np.concatenate([-positive.ravel(), positive.ravel()]))


def dynamic(bits: int) -> Tensor:
    """Dynamic exponent: leading zero bits count powers of ten, the rest is a linear fraction.

    +-10^-z times the midpoints of 2^(k-2-z) equal parts of [0.1, 1], z = 0..k-2, plus 0 and 1:
    exactly 2^k values, not symmetric, not renormalized (appendix A).
    """
    values = [np.array([0.0, 1.0])]
    for zeros in range(bits - 1):
        edges = np.linspace(0.1, 1, 2 ** (bits - 2 - zeros) + 1)
        midpoints = 10.0**-zeros * (edges[:-1] + edges[1:]) / 2
        values += [midpoints, -midpoints]
    return _table(np.concatenate(values))


def quantile(bits: int, elements: Tensor) -> Tensor:
    """A table with about equally many of `elements` (any shape, floating) nearest to each value.

    q_i = (Q(i / (2^k + 1)) + Q((i+1) / (2^k + 1))) / 2 for i = 1..2^k - 1, plus 0, duplicates
    merged, divided by the largest magnitude (equation 6; its i = 0 would need one value more than
    k bits hold and averages in the minimum). Q is the exact empirical quantile function: elements
    sorted in fp32, linear interpolation. A table of zeros alone is [0].

    Raises ValueError if an element is NaN or infinite.
    """
    ordered = torch.sort(elements.detach().flatten().float()).values
    if ordered.numel() == 0:
        return torch.zeros(1)
    if not torch.isfinite(ordered[[0, -1]]).all():
        raise ValueError("quantile codebook: the tensor has NaN or inf; fix the weights first")
    # Q's positions i (n-1) / (2^k + 1) split into whole and fractional part in exact integers.
    position = torch.arange(1, 2**bits + 1) * (ordered.numel() - 1)
    below, remainder = position // (2**bits + 1), position % (2**bits + 1)
    above = (below + 1).clamp(max=ordered.numel() - 1)
    low = ordered[below.to(ordered.device)].double().cpu().numpy()
    high = ordered[above.to(ordered.device)].double().cpu().numpy()
    quantiles = low + (high - low) * (remainder.numpy() / (2**bits + 1))
    values = (quantiles[:-1] + quantiles[1:]) / 2
    largest = np.abs(values).max()
    return _table(np.append(values / largest if largest > 0 else values, 0.0))


def to_bytes(table: Tensor) -> Tensor:
    """The values rounded to i / 127, so that a product with integers is one of integers times a
    scale; those that meet are merged. The table is another: "float-int8" is its own data type."""
    return _table(np.round(table.double().numpy() * 127) / 127)


@cache
def codebook(data_type: str, bits: int, exponent_bits: int | None = None) -> Tensor:
    """The table of a data type that does not depend on the weights: fp32 [at most 2^bits].

    The tensor is shared between callers: do not write to it.
    Raises ValueError for another data type ("quantile" needs the elements: call `quantile`).
    """
    if data_type.endswith("-int8"):
        return to_bytes(codebook(data_type.removesuffix("-int8"), bits, exponent_bits))
    if data_type == "int":
        return integer(bits)
    if data_type == "float":
        return floating(bits, exponent_bits)
    if data_type == "dynamic":
        return dynamic(bits)
    raise ValueError(f"data type {data_type!r} has no fixed codebook; known: int, float, dynamic")


def midpoints_of(table: Tensor) -> Tensor:
    """The fp32 midpoints between neighbouring values: the decision boundaries, [|table| - 1]."""
    return (table[:-1] + table[1:]) * 0.5


def levels_of(table: Tensor, dtype: torch.dtype) -> tuple[Tensor, float]:
    """(the table in a 16-bit type, the unit): their product is the table.

    Integers and floats are whole multiples of their least magnitude, which 16 bit hold: exact but
    for the unit's rounding to fp32. Other tables are rounded, with unit 1.
    """
    sizes = table.double().abs()
    unit = sizes[sizes > 0].min() if bool((sizes > 0).any()) else sizes.new_ones(())
    while float(sizes.max() / unit) > _MOST_LEVEL:
        unit = unit * 2
    multiples = table.double() / unit
    rounded = multiples.to(dtype)
    if bool(((rounded.double() - multiples).abs() <= 1e-6 * multiples.abs()).all()):
        return rounded, float(unit)
    return table.to(dtype), 1.0


def round_to_codebook(x: Tensor, table: Tensor) -> Tensor:
    """Index of the nearest table value for each fp32 x: int64, same shape and device (equation 3).

    It is the number of midpoints strictly below x, so a tie takes the lower index on every device.
    """
    return torch.searchsorted(midpoints_of(table.to(x.device)), x.contiguous())
