"""Metrics of activations and weights against plain numpy, and at shapes with known answers."""

import math

import numpy as np
import pytest
import torch

from evaluation.statistics import tensor_metrics as m

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 24)) * np.linspace(0.1, 3, 24)
X_HAT = np.round(X * 8) / 8
W = RNG.standard_normal((16, 24))
W_HAT = np.round(W * 4) / 4
x, x_hat, w, w_hat = (torch.tensor(a, dtype=torch.float32) for a in (X, X_HAT, W, W_HAT))


def plain_token_kurtosis():
    values = []
    for token in X:
        fourth = sum(v**4 for v in token) / len(token)
        variance = sum((v - token.mean()) ** 2 for v in token) / len(token)
        values.append(max(0.0, fourth / variance**2 - 3))
    return sum(values) / len(values)


@pytest.mark.parametrize(
    ("measured", "plain"),
    [
        (m.rmse(x, x_hat), math.sqrt(((X - X_HAT) ** 2).mean())),
        (m.relative_rmse(x, x_hat), np.linalg.norm(X - X_HAT) / np.linalg.norm(X)),
        (
            m.relative_output_error(x, w, x_hat, w_hat),
            np.linalg.norm(X_HAT @ W_HAT.T - X @ W.T) / np.linalg.norm(X @ W.T),
        ),
        (m.token_std(x), np.mean([token.std() for token in X])),
        (m.gain_std(x[0]), X[0].std()),
        (m.spectral_norm(w), np.linalg.svd(W)[1][0]),
        (m.token_crest(x), np.mean([abs(t).max() / math.sqrt((t**2).mean()) for t in X])),
        (m.token_kurtosis(x), plain_token_kurtosis()),
        (m.weight_std(w), W.std()),
        (m.weight_kurtosis(w), (((W - W.mean()) / W.std()) ** 4).mean()),
    ],
)
def test_metrics_are_their_formulas(measured, plain):
    assert measured == pytest.approx(plain, rel=1e-5)


def test_one_feature_and_equal_features():
    equal, single = torch.ones(5, 16), torch.zeros(5, 16)
    single[:, 3] = 7.0
    assert m.token_crest(equal) == pytest.approx(1)
    assert m.token_crest(single) == pytest.approx(4)
    assert m.neuron_kurtosis(equal) == pytest.approx(1)
    assert m.neuron_kurtosis(single) == pytest.approx(16)
    assert m.max_to_median(equal) == 1 and m.max_to_median(single) == float("inf")
    planted = torch.ones(200, 33)
    planted[17, 5] = -64
    assert m.max_to_median(planted) == 64


def test_zeros_divide_nothing_by_zero():
    zero = torch.zeros(3, 4)
    assert m.relative_rmse(zero, zero) == 0 and m.relative_rmse(zero, zero + 1) == float("inf")
    for metric in (m.token_crest, m.token_kurtosis, m.neuron_kurtosis, m.weight_kurtosis):
        assert metric(zero) == 0


def test_which_metrics_a_rescaling_changes_is_said():
    """A gain times f and the next matrix over f is the same function."""
    gain, f = torch.linspace(0.5, 1.5, 24), 7.0
    normed = torch.randn(40, 24, generator=torch.Generator().manual_seed(1))

    def all_metrics(gain, w):
        x = normed * gain
        x_hat, w_hat = (x / x.abs().max() * 127).round() / 127 * x.abs().max(), w
        return {
            "rmse": m.rmse(x, x_hat),
            "relative_rmse": m.relative_rmse(x, x_hat),
            "relative_output_error": m.relative_output_error(x, w, x_hat, w_hat),
            "token_std": m.token_std(x),
            "gain_std": m.gain_std(gain),
            "spectral_norm": m.spectral_norm(w),
            "weight_std": m.weight_std(w),
            "weight_kurtosis": m.weight_kurtosis(w),
            "token_crest": m.token_crest(x),
            "max_to_median": m.max_to_median(x),
            "token_kurtosis": m.token_kurtosis(x),
            "neuron_kurtosis": m.neuron_kurtosis(x),
        }

    before, after = all_metrics(gain, w), all_metrics(gain * f, w / f)
    changed = {name for name in before if after[name] != pytest.approx(before[name], rel=1e-4)}
    assert changed == set(m.NOT_INVARIANT)
