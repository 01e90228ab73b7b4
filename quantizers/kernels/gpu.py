"""The work of CUDA tensors by the project's kernels: what each has to prove, and on what sample.

A result must be that of plain torch on the same device bit for bit, for log-probabilities, whose
sums have an order of their own, within their rounding. Where a kernel is not used (see `proving`),
every function here returns None: the caller takes plain torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from quantizers.codebooks import integer
from quantizers.granularity import Granularity
from quantizers.kernels import launches, measured, proving, reference, tuning
from quantizers.kernels.launches import Launch
from quantizers.packed import PackedTensor, empty


def dequantize(q: PackedTensor) -> Tensor | None:
    if q.n == 0:
        return None
    launch, out = launches.dequantize(q)

    def check() -> bool:
        sample, _ = _sample(q, launch)
        trial, result = launches.dequantize(sample)
        result.fill_(torch.nan)
        proving.start(trial, q.device)
        return _equal_bits(result, reference.dequantize(sample))

    return out if proving.run(launch, q.device, check) else None


def quantize(values: Tensor, q: PackedTensor) -> bool:
    """Whether q's words have been written, with its absmax and mean given."""
    if q.n == 0:
        return False
    launch = launches.quantize(values, q, proving.processors(q.device))

    def check() -> bool:
        sample, weights = _sample(q, launch)
        expected = sample.words.clone()
        sample.words.fill_(-1)
        proving.start(launches.quantize(weights, sample, processors=1), q.device)
        return _equal_bits(sample.words, expected)

    return proving.run(launch, q.device, check)


def quantize_blocks(values: Tensor, q: PackedTensor) -> bool:
    """Whether q's words and absmax have been written, in one pass over the weights. False also for
    weights that cannot be quantized (NaN, inf, overflow): the slower path finds them again and says
    which."""
    if q.n == 0:
        return False
    planned = launches.quantize_blocks(values, q, proving.processors(q.device))
    if planned is None:
        return False
    launch, problem = planned

    def check() -> bool:
        weights = _sample_weights(q.dtype, q.device)
        trial = empty(weights, integer(q.bits), q.bits, Granularity(64))
        expected = empty(weights, integer(q.bits), q.bits, Granularity(64))
        rows = torch.nn.functional.pad(weights, (0, 24)).view(-1, 64)  # 1000 + 24 = 16 x 64
        expected.absmax.copy_(rows.abs().amax(1))
        reference.quantize(weights, expected)
        trial_planned = launches.quantize_blocks(weights, trial, processors=1)
        assert trial_planned is not None
        proving.start(trial_planned[0], q.device)
        same = _equal_bits(trial.words, expected.words)
        return same and _equal_bits(trial.absmax, expected.absmax) and int(trial_planned[1]) == 0

    return proving.run(launch, q.device, check) and int(problem) == 0


def multiply(x: Tensor, q: PackedTensor, bias: Tensor | None) -> Tensor | None:
    """Few rows of x at a time; None above the crossover, and for what the kernels do not cover."""
    if len(x) > tuning.most_fused_rows(q.bits, q.n):
        return None
    parts = []
    for rows in x.split(measured.multiply_rows(x.device)):
        if (y := multiply_at_once(rows, q, bias)) is None:
            return None
        parts.append(y)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def multiply_at_once(x: Tensor, q: PackedTensor, bias: Tensor | None) -> Tensor | None:
    """At most MOST_MULTIPLY_ROWS rows of x by one launch."""
    available = proving.limits(x.device)
    for plan, weights in (
        (launches.gemv, reference.dequantize),
        (launches.multiply, reference.fused_weights),
    ):
        plan = partial(plan, limits=available)
        planned = plan(x, q, bias)
        if planned is not None:
            launch, y = planned
            if proving.run(launch, x.device, partial(_proves_product, plan, weights, (x, q))):
                return y
    return None


def _proves_product(
    plan: Callable[..., Any],
    weights_of: Callable[[PackedTensor], Tensor],
    operands: tuple[Tensor, PackedTensor],
) -> bool:
    """Rows of the identity give columns of the matrix, bit for bit."""
    x, q = operands
    m, d_in, d_out = len(x), 2 * launches.FUSED_COLUMNS, 40
    values = torch.linspace(-1, 1, d_out * d_in, device=x.device).to(x.dtype).view(d_out, d_in)
    blocks = Granularity(16 if q.blocks.size == 16 else 64)
    sample = empty(values, integer(q.bits), q.bits, blocks)
    sample.absmax.copy_(torch.linspace(0.1, 2, sample.absmax.numel(), device=x.device))
    reference.quantize(values.flatten(), sample)
    weights = weights_of(sample).view(d_out, d_in)
    for first in (5, 100, 250):
        columns = (torch.arange(m, device=x.device) * 37 + first) % d_in
        chosen = torch.nn.functional.one_hot(columns, d_in).to(x.dtype)
        launch, y = plan(chosen, sample, None)
        y.fill_(torch.nan)
        proving.start(launch, x.device)
        if not torch.equal(y, weights.T[columns]):
            return False
    return True


def token_logprobs(
    logits: Tensor, targets: Tensor, greedy: bool
) -> tuple[Tensor, Tensor | None] | None:
    device = logits.device
    planned = launches.token_logprobs(logits, targets, greedy)
    if planned is None:
        return None
    launch, logprobs, flags = planned

    def check() -> bool:
        """Other sums than torch's: close, not the same bits."""
        sample, targets = _sample_logits(logits.dtype, device)
        trial = launches.token_logprobs(sample, targets, greedy=True)
        assert trial is not None and trial[2] is not None
        trial[1].fill_(1)
        proving.start(trial[0], device)
        close, likeliest = reference.token_logprobs(sample, targets, greedy=True)
        assert likeliest is not None
        near = torch.allclose(trial[1], close, rtol=1e-6, atol=1e-5, equal_nan=True)
        return near and torch.equal(trial[2], likeliest)

    return (logprobs, flags) if proving.run(launch, device, check) else None


def _sample_logits(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """(logits, targets) of rows of an odd length: plain ones, two alike, infinities, NaN."""
    rows = torch.sin(torch.arange(8 * 4099, device=device) * 0.7).view(8, 4099) * 9
    rows[2:4, [70, 4000]] = 11
    rows[4:6, 33:4000] = -torch.inf
    rows[6, 5], rows[7, 4098] = torch.nan, torch.inf
    targets = [int(rows[0].argmax()), 4098, 70, 4000, 33, 4001, 5, 4098]
    return rows.to(dtype), torch.tensor(targets, device=device)


def _sample_weights(dtype: torch.dtype, device: torch.device) -> Tensor:
    """1000 weights: a short last group, warp, tile and block."""
    return (torch.linspace(-3, 3, 1000, device=device) ** 3).to(dtype)


def _sample(q: PackedTensor, launch: Launch) -> tuple[PackedTensor, Tensor]:
    """(packed, weights) of 20 rows, centered, for the instance that q takes."""
    weights = _sample_weights(q.dtype, q.device)
    fast = launch.instance.parameters[-1]
    blocks = Granularity(64) if fast else Granularity(7, by_row=True)
    sample = empty(weights.view(20, 50), integer(q.bits), q.bits, blocks, centered=True)
    assert sample.mean is not None
    sample.absmax.copy_(torch.linspace(0, 30, sample.absmax.numel(), device=q.device))
    sample.mean.copy_(torch.linspace(-0.5, 0.5, sample.mean.numel(), device=q.device))
    reference.quantize(weights, sample)
    return sample, weights


def _equal_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8))
