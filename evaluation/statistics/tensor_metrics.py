"""What is said of activations and weights to explain how they quantize.

Activations are X [n_tokens, d_in] of one site, weights W [d_out, d_in] as stored (XW is X @ W.T).
Sums are taken in fp64. From *Intriguing properties of quantization at scale* (section 5): RMSE,
token STD, gain STD, spectral norm. Token STD, gain STD, RMSE and spectral norm change when a norm's
gain is scaled and the next matrix divided by it, which leaves the function as it was: they compare
models of one architecture only. Relative errors do not.
"""

from __future__ import annotations

import torch
from torch import Tensor

# What changes under function-preserving rescaling of a norm and its readers.
NOT_INVARIANT = ("rmse", "token_std", "gain_std", "spectral_norm", "weight_std")


def rmse(x: Tensor, quantized: Tensor) -> float:
    """Root of the mean squared error between two tensors of one shape."""
    return (x.double() - quantized.double()).square().mean().sqrt().item()


def relative_rmse(x: Tensor, quantized: Tensor) -> float:
    """`rmse` as a part of the root mean square of x; 0 where both are zero throughout."""
    return _ratio(rmse(x, quantized), x.double().square().mean().sqrt().item())


def relative_output_error(x: Tensor, w: Tensor, x_hat: Tensor, w_hat: Tensor) -> float:
    """‖x̂ŵ − xw‖ / ‖xw‖ (Frobenius): what a quantized product is off by."""
    exact = x.double() @ w.double().T
    off = x_hat.double() @ w_hat.double().T - exact
    return _ratio(off.norm().item(), exact.norm().item())


def token_std(x: Tensor) -> float:
    """Mean over tokens of the standard deviation of a token's features."""
    return x.double().std(dim=1, correction=0).mean().item()


def gain_std(gain: Tensor) -> float:
    """Standard deviation of a norm's gain [d]."""
    return gain.double().std(correction=0).item()


def spectral_norm(w: Tensor) -> float:
    """The largest singular value of a matrix: how much it can amplify an error (equation 3)."""
    return torch.linalg.matrix_norm(w.double(), 2).item()


def token_crest(x: Tensor) -> float:
    """Mean over tokens of max |x| / RMS: 1 for equal magnitudes, √d for a single feature."""
    magnitudes = x.double().abs()
    rms = magnitudes.square().mean(dim=1).sqrt()
    return (magnitudes.amax(dim=1) / rms.clamp_min(torch.finfo(torch.float64).tiny)).mean().item()


def max_to_median(x: Tensor) -> float:
    """The largest feature beside the median one, a feature's size being its maximum over tokens."""
    largest = x.double().abs().amax(dim=0)
    return _ratio(largest.max().item(), largest.median().item())


def token_kurtosis(x: Tensor) -> float:
    """Outlier-safe pre-training's form: mean over tokens of relu(mean x⁴ / std⁴ − 3)."""
    x = x.double()
    fourth, std = x.pow(4).mean(dim=1), x.std(dim=1, correction=0)
    excess = fourth / std.pow(4).clamp_min(torch.finfo(torch.float64).tiny) - 3
    return excess.relu().mean().item()


def neuron_kurtosis(x: Tensor) -> float:
    """He et al.'s form: mean s⁴ / (mean s²)² over features of RMS s.

    1 for equal features; saturates at d_in / m for m equal outlier features.
    """
    squares = x.double().square().mean(dim=0)
    return _ratio(squares.square().mean().item(), squares.mean().square().item())


def weight_std(w: Tensor) -> float:
    """Standard deviation of all elements."""
    return w.double().std(correction=0).item()


def weight_kurtosis(w: Tensor) -> float:
    """Fourth moment about the mean beside the squared variance: 3 for normal weights."""
    deviation = w.double() - w.double().mean()
    return _ratio(deviation.pow(4).mean().item(), deviation.square().mean().square().item())


def _ratio(part: float, whole: float) -> float:
    if whole == 0:
        return 0.0 if part == 0 else float("inf")
    return part / whole
