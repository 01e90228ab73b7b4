"""Quantize + pack, unpack + dequantize, multiply, and score tokens: each one function whatever the
device.

CPU tensors take compiled loops, CUDA tensors the project's kernels where these have proved
themselves (see `proving`), everything else plain torch operations. Quantized and dequantized
tensors have the same bits on every path: fp32 subtraction and IEEE division in, fp32 product and
sum out, rounded once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantizers import packing
from quantizers.integers import Codes, IntegerWeight, PackedIntegers
from quantizers.kernels import (
    checks,
    cpu,
    cpu_integers,
    gpu,
    integer_gpu,
    integer_products,
    reference,
)
from quantizers.packed import PackedTensor


def quantize(values: Tensor, q: PackedTensor) -> None:
    """Write q's words: the indices of (values - mean) / absmax rounded to the codebook.

    values: [n], contiguous, of q's type and device; q.absmax and q.mean are given. Blocks of absmax
    0 get the index of 0. Raises ValueError for other values.
    """
    checks.check_values(values, q)
    if values.device.type == "cuda" and gpu.quantize(values, q):
        return
    path = cpu if values.device.type == "cpu" else reference
    path.quantize(values, q)


def quantize_blocks(values: Tensor, q: PackedTensor) -> bool:
    """Write q's words and absmax in one pass over the values, where there is such a kernel.

    False on the CPU, with means, for blocks it does not cover, and for weights that cannot be
    quantized: then find the absmax first and call `quantize`, which gives the same bits.
    """
    checks.check_values(values, q)
    return values.device.type == "cuda" and gpu.quantize_blocks(values, q)


def pack(codes: Tensor, q: PackedTensor) -> None:
    """Write q's words: the codes, integers [n] in its order on its device, each below 2^bits."""
    if q.device.type == "cpu":
        cpu.pack(codes.to(torch.uint16).contiguous(), q)
    else:
        q.words.copy_(packing.pack(codes, q.bits))


def dequantize(q: PackedTensor) -> Tensor:
    """codebook[index] * absmax (+ mean) in fp32, rounded once to q's type: [n] on its device.

    An index beyond the codebook, which no quantizer writes, gives NaN: a damaged stream shows.
    """
    if q.device.type == "cuda" and (out := gpu.dequantize(q)) is not None:
        return out
    path = cpu if q.device.type == "cpu" else reference
    return path.dequantize(q)


def multiply(x: Tensor, q: PackedTensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + bias for a packed W [d_out, d_in]: [..., d_out] like x.

    x: floating [..., d_in]; bias: [d_out]. On a GPU few rows of x (`tuning.most_fused_rows`) go
    straight through the packed form with fp32 sums (appendix E: then latency follows the bits).
    With one row the weights are those of `dequantize` before they are rounded to 16 bit; with more
    those of `reference.fused_weights`: the codebook in 16 bit times constants, which sums get. More
    rows, and what the kernels do not cover (means, d_in not a multiple of 128, x not in the
    weights' type), take the dequantized matrix and torch's product.

    Raises ValueError for arguments that disagree (see `checks`).
    """
    checks.check_product(x, q, bias)
    d_out, d_in = q.shape
    if x.device.type == "cuda" and q.mean is None and x.dtype == q.dtype == q.absmax.dtype:
        y = gpu.multiply(x.reshape(-1, d_in).contiguous(), q, bias)
        if y is not None:
            return y.view(*x.shape[:-1], d_out)
    weight = dequantize(q).view(d_out, d_in).to(x.dtype)
    return torch.nn.functional.linear(x, weight, None if bias is None else bias.to(x.dtype))


def round_rows(x: Tensor, limit: int, fixed: float | None = None) -> Codes:
    """Rows [tokens, d_in] of any floating type to integers from -limit to limit, at most 127, times
    a scale: a row's largest magnitude / limit, or `fixed`, beyond whose range values clamp; 1
    where that is 0. Quotients are fp32's, halves go to even. A row with NaN or infinity has scale
    NaN."""
    rows, scale = x.contiguous(), None
    if fixed is not None:
        scale = torch.full((1,), fixed, device=x.device)
    if (
        x.device.type == "cuda"
        and (codes := integer_gpu.round_rows(rows, limit, scale)) is not None
    ):
        return codes
    path = cpu_integers if x.device.type == "cpu" else reference
    return path.round_rows(rows, limit, scale)


def integer_product(
    x: Codes,
    w: IntegerWeight | PackedIntegers,
    bias: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """[tokens, d_out] in `dtype`: the exact sum of each group of columns, rounded to fp32 once,
    times the group's and the token's scale, plus the bias, fp32 [d_out]; groups are added in fp32,
    in order on a CPU. With a scale a row every path gives the same bits."""
    if x.values.device.type == "cuda":
        y = integer_gpu.integer_product(x, w, bias, dtype)
        if y is not None:
            return y
    return integer_products.integer_product(x, w, bias).to(dtype)


def token_logprobs(logits: Tensor, targets: Tensor, greedy: bool) -> tuple[Tensor, Tensor | None]:
    """(log-probabilities of the targets, fp32 [n]; whether each is likeliest, bool [n], if asked).

    logits: floating [n, vocabulary]; targets: int64 [n] on the same device, each below vocabulary.
    The softmax is taken in fp32, in nats, within 1e-6 plus the result's rounding to fp32 of
    float64's whatever the vocabulary. The first of equal logits is the likeliest, and NaN
    counts as the largest. Raises ValueError for other shapes.
    """
    checks.check_targets(logits, targets)
    args = logits.contiguous(), targets.contiguous(), greedy
    if logits.device.type == "cuda" and (scores := gpu.token_logprobs(*args)) is not None:
        return scores
    if logits.device.type == "cpu":
        from quantizers.kernels import cpu_logprob  # Numba: half a second, only when needed

        return cpu_logprob.token_logprobs(*args)
    return reference.token_logprobs(*args)
