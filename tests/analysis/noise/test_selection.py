"""Settings with a known truth and normal noise: what picking the best of them does to its numbers.

The figures that wording.SELECTED and wording.CALIBRATED state come from this simulation, with more
settings of it and 500 families each.
"""

import numpy as np
import pytest

from analysis.noise.shrinkage import true_scores

SHARED = 0.7  # of the noise's variance, as items shared by all settings make it
_Z = 1.6449


def simulate(n: int, spread: float, families: int = 300) -> dict[str, float]:
    """`n` settings whose truths differ by `spread` times the noise of their differences."""
    rng = np.random.default_rng(1)
    own, common = np.sqrt(1 - SHARED), np.sqrt(SHARED)
    rows = []
    for _ in range(families):
        truth = rng.normal(0, spread * own, n)
        score = truth + common * rng.normal() + own * rng.normal(size=n)
        noise = common * rng.normal(size=(400, 1)) + own * rng.normal(size=(400, n))
        posterior = true_scores(score, noise, rng)
        best = score.argmax()
        assert posterior.close[0] == best
        low, high = np.quantile(posterior.draws[:, 0], [0.05, 0.95])
        plain = abs(score[best] - truth[best]) <= _Z
        stated = posterior.probability(n)[best]
        rows.append([stated, truth.argmax() == best, low <= truth[best] <= high, plain])
    names = ("stated", "right", "covered", "plain")
    return dict(zip(names, np.mean(rows, axis=0), strict=True))


@pytest.mark.parametrize(("n", "spread"), [(3, 1.0), (5, 0.05), (5, 1.0), (20, 0.05), (20, 4.0)])
def test_the_winner_s_interval_covers_the_truth(n: int, spread: float) -> None:
    found = simulate(n, spread)
    assert 0.84 <= found["covered"] <= 0.95
    if (n, spread) == (20, 0.05):  # where picking matters most
        assert found["plain"] < found["covered"] - 0.08


@pytest.mark.parametrize("n", [3, 5, 20])
def test_probabilities_err_on_the_low_side_where_settings_differ(n: int) -> None:
    for spread in (1.0, 2.0):
        found = simulate(n, spread)
        assert -0.04 <= found["right"] - found["stated"] <= 0.16


def test_among_equals_the_stated_probability_is_too_high() -> None:
    found = simulate(5, 0.05)
    assert 0.3 < found["stated"] < 0.4 and found["right"] < found["stated"]
