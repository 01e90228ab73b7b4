"""Products of integer activations and integer weights, whose sums are exact on every path.

Sums come from integer instructions where there are any: our own kernel on a CPU, cuBLASLt on a GPU;
elsewhere from floating-point products of whole numbers that are short enough to be exact. The
results have the same bits, so which path is taken is only speed.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from quantizers.integers import Codes, IntegerWeight, PackedIntegers
from quantizers.kernels import cpu_integers

_EXACT = 2**24  # fp32 holds all whole numbers up to here
_SHORTEST = 128  # columns; below, fp64 is as fast, and TF32 would not hold the weights
_INT32 = 2**31 - 1


def integer_product(
    x: Codes, w: IntegerWeight | PackedIntegers, bias: Tensor | None = None
) -> Tensor:
    """fp32 [tokens, d_out]: see `kernels.integer_product`. Packed weights are unpacked first."""
    w = w.unpacked() if isinstance(w, PackedIntegers) else w
    on_cpu = x.values.device.type == "cpu"
    if on_cpu and cpu_integers.covers(x, w) and cpu_integers.unsupported() is None:
        return cpu_integers.multiply(x, w, bias)
    result = torch.zeros(len(x.values), len(w.values), device=x.values.device)
    for g, begin in enumerate(range(0, w.values.shape[1], w.group)):
        columns = slice(begin, begin + w.group)
        sums = exact_sums(x.values[:, columns], w.values[:, columns], x.limit * w.limit)
        result.addcmul_(sums.float(), w.scales[:, g].expand_as(sums))
    result.mul_(x.scale)
    return result if bias is None else result.add_(bias)


def exact_sums(x: Tensor, w: Tensor, largest: int) -> Tensor:
    """x w^T of whole numbers: x int8 [tokens, K], w int8 or int16 [d_out, K], |x_i w_j| <= largest.

    Exact, in int32, fp32 or fp64: by integer instructions of a GPU, else in fp32 products short
    enough that no sum passes 2^24 (K <= 1040 for int8 x int8), added in fp64.
    """
    n = x.shape[1]
    if w.dtype == torch.int8 and n * largest <= _INT32 and _takes_integers(x, w):
        # Its second matrix must be a column-major view of contiguous rows.
        return torch._int_mm(x.contiguous(), w.contiguous().T)
    longest, x, w = _EXACT // largest, x.float(), w.float()
    if n <= longest and longest >= _SHORTEST:
        return x @ w.T
    if longest < _SHORTEST:
        return x.double() @ w.double().T
    sums = torch.zeros(len(x), len(w), dtype=torch.float64, device=x.device)
    for begin in range(0, n, longest):
        chunk = slice(begin, begin + longest)
        sums += x[:, chunk] @ w[:, chunk].T
    return sums


def library_takes(x: Tensor, w: Tensor) -> bool:
    """cuBLAS's conditions: more than 16 rows, K and N multiples of 8."""
    return len(x) > 16 and x.shape[1] % 8 == 0 and len(w) % 8 == 0


def _takes_integers(x: Tensor, w: Tensor) -> bool:
    """Whether `torch._int_mm` computes this by integer instructions, and rightly."""
    cuda = x.device.type == "cuda" and library_takes(x, w)
    return cuda and library_unsupported(x.device) is None


@cache
def library_unsupported(device: torch.device) -> str | None:
    """Why `torch._int_mm` is not used on a device: on its extreme values it must be exact."""
    row = torch.arange(5 * 4096, device=device) * 31 % 255 - 127
    x = row.view(20, 1024)[:, :1000].to(torch.int8).contiguous()
    w = row.flip(0).view(20, 1024)[:16, :1000].to(torch.int8).contiguous()
    x[:2], w[:2] = 127, -127
    try:
        found = torch._int_mm(x, w.T)
    except RuntimeError as error:
        return f"torch._int_mm: {str(error).splitlines()[0]}"
    exact = x.double() @ w.double().T
    return None if torch.equal(found.double(), exact) else "torch._int_mm is not exact here"
