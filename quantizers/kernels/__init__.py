"""Quantize + pack, unpack + dequantize, multiply, and score tokens: each one function whatever the
device.

CPU tensors take compiled loops, CUDA tensors the project's kernels where these have proved
themselves (see `gpu`), everything else plain torch operations. Quantized and dequantized tensors
have the same bits on every path: fp32 subtraction and IEEE division in, fp32 product and sum out,
rounded once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantizers.kernels import checks, cpu, cpu_logprob, gpu, reference


def quantize_packed(
    values: Tensor, absmax: Tensor, mean: Tensor | None, codebook: Tensor, bits: int, block: int
) -> Tensor:
    """Index stream of (values - mean) / absmax rounded to the codebook.

    values: floating [n], contiguous; absmax and mean: 16-bit floating [ceil(n / block)], one a
    block of `block` neighbours; codebook: fp32 [at most 2^bits], ascending. Returns int32 words
    [ceil(n bits / 32)] on the device of `values`. Blocks of absmax 0 get the index of 0.

    Raises ValueError for arguments that disagree (see `checks`).
    """
    checks.check_dtype("values", values.dtype)
    checks.check_codebook(codebook, bits)
    checks.check_constants(absmax, mean, block, values.numel(), values.device)
    args = (
        values.contiguous(),
        absmax.contiguous(),
        _contiguous(mean),
        codebook.contiguous(),
        bits,
        block,
    )
    if values.device.type == "cuda" and (words := gpu.quantize_packed(*args)) is not None:
        return words
    path = cpu if values.device.type == "cpu" else reference
    return path.quantize_packed(*args)


def quantize_blocks(
    values: Tensor, codebook: Tensor, bits: int, block: int
) -> tuple[Tensor, Tensor] | None:
    """(words, absmax) of values [n] in one pass over them, where there is such a kernel.

    None on the CPU, for blocks it does not cover, and for weights that cannot be quantized: then
    find the absmax first and call `quantize_packed`, which gives the same bits.
    """
    if values.device.type != "cuda":
        return None
    checks.check_dtype("values", values.dtype)
    checks.check_codebook(codebook, bits)
    return gpu.quantize_blocks(values.contiguous(), codebook.contiguous(), bits, block)


def dequantize_packed(
    words: Tensor,
    absmax: Tensor,
    mean: Tensor | None,
    codebook: Tensor,
    bits: int,
    block: int,
    n: int,
    dtype: torch.dtype,
) -> Tensor:
    """codebook[index] * absmax (+ mean) in fp32, rounded once to `dtype`: [n] on words' device.

    Arguments as `quantize_packed` takes and gives them. An index beyond the codebook, which no
    quantizer writes, gives NaN: a damaged stream shows.

    Raises ValueError for arguments that disagree (see `checks`).
    """
    checks.check_dtype("dtype", dtype)
    checks.check_codebook(codebook, bits)
    return _dequantize(words, absmax, mean, codebook, bits, block, n, dtype)


def multiply_packed(
    x: Tensor,
    words: Tensor,
    absmax: Tensor,
    mean: Tensor | None,
    codebook: Tensor,
    bits: int,
    block: int,
    d_out: int,
    dtype: torch.dtype,
    bias: Tensor | None = None,
) -> Tensor:
    """x W^T + bias for a packed W [d_out, d_in] of weights in `dtype`: [..., d_out] like x.

    x: floating [..., d_in]; bias: [d_out]. On a GPU few rows of x (`tuning.most_fused_rows`) go
    straight through the packed form with fp32 sums (appendix E: then latency follows the bits): the
    weights are those of `dequantize_packed`, with one row before they are rounded to 16 bit. More
    rows, and what the kernels do not cover (means, d_in not a multiple of 128, x not in `dtype`),
    take the dequantized matrix and torch's product.

    Raises ValueError for arguments that disagree (see `checks`). The values of the codebook, which
    may be on the GPU, are not looked at: `checks.check_codebook` does, once.
    """
    checks.check_product(x, bias, d_out, words.device)
    d_in = x.shape[-1]
    if x.device.type == "cuda" and mean is None and x.dtype == dtype == absmax.dtype:
        checks.check_words(words, bits, d_out * d_in)
        checks.check_constants(absmax, mean, block, d_out * d_in, words.device)
        rows = x.reshape(-1, d_in).contiguous()
        y = gpu.multiply(
            rows, words.contiguous(), absmax.contiguous(), codebook, bias, bits, block, d_out
        )
        if y is not None:
            return y.view(*x.shape[:-1], d_out)
    weight = _dequantize(words, absmax, mean, codebook, bits, block, d_out * d_in, dtype)
    wide = None if bias is None else bias.to(x.dtype)
    return torch.nn.functional.linear(x, weight.view(d_out, d_in).to(x.dtype), wide)


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
    path = cpu_logprob if logits.device.type == "cpu" else reference
    return path.token_logprobs(*args)


def _dequantize(
    words: Tensor,
    absmax: Tensor,
    mean: Tensor | None,
    codebook: Tensor,
    bits: int,
    block: int,
    n: int,
    dtype: torch.dtype,
) -> Tensor:
    checks.check_words(words, bits, n)
    checks.check_constants(absmax, mean, block, n, words.device)
    streams = words.contiguous(), absmax.contiguous(), _contiguous(mean)
    args = (*streams, codebook.contiguous(), bits, block, n, dtype)
    if words.device.type == "cuda" and (out := gpu.dequantize_packed(*args)) is not None:
        return out
    path = cpu if words.device.type == "cpu" else reference
    return path.dequantize_packed(*args)


def _contiguous(constants: Tensor | None) -> Tensor | None:
    return None if constants is None else constants.contiguous()
