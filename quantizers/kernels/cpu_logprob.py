"""Log-probabilities of tokens on the CPU: logits minus the logarithm of their summed exponentials.

torch adds up a row's exponentials in fp32, lane by lane: with 49 thousand tokens its log_softmax
was found low by 1.7e-5. Here short strips are added in fp32 and the strips in float64.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from quantizers.kernels.exponential import exponential
from quantizers.kernels.jit import compiled

STRIP = 256  # tokens whose exponentials are added up in fp32
# Sums may be reordered; nan and inf keep their meaning, since diverged models must stay diverged.
_FASTMATH = frozenset({"reassoc", "contract", "nsz", "arcp"})
_SIGNATURE = "void(f4[:,::1], i8[::1], b1, f4[::1], f4[::1], f4[::1], b1[::1])"


def token_logprobs(logits: Tensor, targets: Tensor, greedy: bool) -> tuple[Tensor, Tensor | None]:
    n = len(targets)
    logprobs = np.empty(n, np.float32)
    flags = np.empty(n if greedy else 0, np.bool_)
    scratch, powers = np.empty(STRIP, np.float32), np.empty(STRIP, np.float32)
    arrays = (logits.float().numpy(), targets.numpy(), greedy, scratch, powers, logprobs, flags)
    compiled(_score, _SIGNATURE, _FASTMATH)(*arrays)
    return torch.from_numpy(logprobs), torch.from_numpy(flags) if greedy else None


def _score(logits, targets, greedy, scratch, powers, logprobs, flags):  # type: ignore[no-untyped-def]
    """Loops over one index and few arrays each: others the compiler does not make vectors of."""
    rows, columns = logits.shape
    exponents = powers.view(np.int32)
    lanes = np.empty(64, np.float32)
    for row in range(rows):
        x = logits[row]
        target = targets[row]
        if not 0 <= target < columns:  # as in the CUDA kernel
            logprobs[row] = np.nan
            flags[row : row + 1] = False
            continue
        largest = x[0]
        lanes[:] = largest
        for begin in range(0, columns - 63, 64):
            strip = x[begin : begin + 64]
            for j in range(64):
                lanes[j] = strip[j] if strip[j] > lanes[j] else lanes[j]
        for j in range(64):
            largest = lanes[j] if lanes[j] > largest else largest
        for j in range(columns // 64 * 64, columns):
            largest = x[j] if x[j] > largest else largest

        total = np.float64(0)
        for begin in range(0, columns, STRIP):
            strip = x[begin : begin + STRIP]
            size = strip.size
            for j in range(size):
                scratch[j], exponents[j] = exponential(strip[j] - largest)
            part = np.float32(0)
            for j in range(size):
                part += scratch[j] * powers[j]
            total += part

        finite = -np.inf < largest < np.inf
        logprob = np.float64(x[target]) - np.float64(largest) - np.log(total)
        logprobs[row] = logprob if finite else np.nan
        if greedy:
            # nan counts as the largest, and of equal logits the first.
            first = not (finite and x[target] < largest)
            if first:
                bad = np.isnan(x[target])
                for j in range(target):
                    first &= not (np.isnan(x[j]) if bad else x[j] >= x[target] or np.isnan(x[j]))
                for j in range(target + 1, columns):
                    first &= bad or not (x[j] > x[target] or np.isnan(x[j]))
            flags[row] = first
