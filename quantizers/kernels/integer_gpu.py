"""Rounding rows and multiplying integers on a GPU, by kernels that are proven: see proving.

Few rows of x take our kernel, many and a scale a row cuBLASLt's int8 product; both give the same
bits where a row has one scale.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from quantizers.integers import Codes, IntegerWeight, PackedIntegers
from quantizers.kernels import integer_launches, measured, proving, reference
from quantizers.kernels.integer_products import library_takes, library_unsupported
from quantizers.kernels.launches import Launch, Limits
from quantizers.packing import pack


def round_rows(x: Tensor, limit: int, fixed: Tensor | None) -> Codes | None:
    planned = integer_launches.round_rows(x, limit, fixed)
    if planned is None:
        return None
    launch, codes = planned

    def check() -> bool:
        sample = torch.sin(torch.arange(6 * x.shape[1], device=x.device) * 0.7).view(6, -1)
        sample = (sample * torch.logspace(-4, 4, 6, device=x.device)[:, None]).to(x.dtype)
        sample[1], sample[2, 3], sample[3, -1] = 0, torch.nan, torch.inf
        same = True
        for scale in (None, torch.full((1,), 0.01, device=x.device)):
            trial = integer_launches.round_rows(sample, limit, scale)
            assert trial is not None
            trial[1].values.fill_(99), trial[1].scale.fill_(99)
            proving.start(trial[0], x.device)
            expected = reference.round_rows(sample, limit, scale)
            same &= torch.equal(trial[1].values, expected.values)
            found = trial[1].scale, expected.scale
            same &= torch.equal(*(torch.nan_to_num(s, nan=-1.0) for s in found))
        return same

    return codes if proving.run(launch, x.device, check) else None


def integer_product(
    x: Codes, w: IntegerWeight | PackedIntegers, bias: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    """None for what no kernel covers."""
    y = None
    if isinstance(w, IntegerWeight) and takes_library(x, w):
        y = library_product(x, w, bias, dtype)
    return kernel_product(x, w, bias, dtype) if y is None else y


def takes_library(x: Codes, w: IntegerWeight) -> bool:
    """Whether cuBLASLt is to compute the sums: it has one scale a row, and many rows of x."""
    one_scale = w.scales.shape[1] == 1 and w.values.dtype == torch.int8
    many = len(x.values) >= measured.library_tokens(x.values.device)
    return one_scale and many and library_takes(x.values, w.values)


def library_product(
    x: Codes, w: IntegerWeight, bias: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    device = x.values.device
    if library_unsupported(device) is not None:
        return None
    sums = torch._int_mm(x.values, w.values.T)
    planned = integer_launches.scale_sums(sums, x, w, bias, dtype)
    if planned is None:
        return None

    def check() -> bool:
        trial_x, trial_w = sample(8, 1, 5, device)
        assert isinstance(trial_w, IntegerWeight)
        small = (trial_x.values.double() @ trial_w.values.double().T).int()
        trial_bias = torch.linspace(-9, 9, len(trial_w.values), device=device)
        trial = integer_launches.scale_sums(small, trial_x, trial_w, trial_bias, dtype)
        assert trial is not None
        proving.start(trial[0], device)
        return torch.equal(trial[1], reference.integer_product(trial_x, trial_w, trial_bias, dtype))

    return planned[1] if proving.run(planned[0], device, check) else None


def kernel_product(
    x: Codes, w: IntegerWeight | PackedIntegers, bias: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    limits = proving.limits(x.values.device)
    planned = integer_launches.integer_product(x, w, bias, dtype, limits)
    if planned is None:
        return None
    check = partial(_proves_product, planned[0], x.values.device, limits)
    return planned[1] if proving.run(planned[0], x.values.device, check) else None


def _proves_product(launch: Launch, device: torch.device, limits: Limits) -> bool:
    """On two tiles each way, the last ones short, and powers of two for scales: then no order of
    sums rounds, and the result is that of fp64 bit for bit, in each type that it can have."""
    bits, scales, _, tokens = (int(p) for p in launch.instance.parameters)  # type: ignore[arg-type]
    x, w = sample(bits, {0: 1, 1: 5, 2: 10}[scales], tokens - 3, device)
    x = replace(x, scale=x.scale / 2**12)  # most results are within fp16
    whole = w.unpacked() if isinstance(w, PackedIntegers) else w
    some = torch.linspace(-9, 9, len(w.scales), device=device)
    for dtype, bias in ((torch.float32, None), (torch.float16, some), (torch.bfloat16, some)):
        trial = integer_launches.integer_product(x, w, bias, dtype, limits)
        assert trial is not None and trial[0].instance == launch.instance
        trial[1].fill_(torch.nan)
        proving.start(trial[0], device)
        if not torch.equal(trial[1], reference.integer_product(x, whole, bias, dtype)):
            return False
    return True


def sample(
    bits: int, groups: int, tokens: int, device: torch.device
) -> tuple[Codes, IntegerWeight | PackedIntegers]:
    """Operands of 320 columns in groups and 140 rows of w, with all codes and some largest ones."""
    d_out, d_in = 140, 320
    place = torch.arange(max(d_out, tokens) * d_in, device=device)
    mixed = place * 2654435761 // 65536
    values = (mixed[: tokens * d_in] % 255 - 127).to(torch.int8).view(tokens, d_in)
    values[0, :9] = 127
    x = Codes(values, torch.exp2((place[:tokens, None] % 7 - 3).float()), 127)
    scales = torch.exp2((place[: d_out * groups] % 5 - 2).float()).view(d_out, groups)
    if bits == 8:
        whole = ((mixed[: d_out * d_in] // 255) % 255 - 127).to(torch.int8).view(d_out, d_in)
        return x, IntegerWeight(whole, scales, d_in // groups, 127)
    table = (torch.arange(16, device=device) * 17 - 127).to(torch.int8)
    words = pack(mixed[: d_out * d_in] // 255 % 16, 4)
    return x, PackedIntegers(words, table, scales, d_in // groups, 127)
