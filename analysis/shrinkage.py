"""The probability of each of several noisy values to be the best, calibrated by empirical Bayes.

Of several values that differ less than their noise, the best looking one owes its place to luck,
and a bootstrap around the values as measured takes that luck for truth: stated 80% is right in
40%. So the true differences between the candidates are taken as normal with a variance that the
values themselves tell (its likelihood against noise alone), and shrunk accordingly. Where the
differences dwarf the noise nothing changes. (Efron, Large-Scale Inference, 2010, chapter 1.)
"""

import numpy as np

from analysis.curves import FloatArray

_BEHIND = 4.0  # standard errors of the lead beyond which a candidate is out, and shrinks nothing
MOST = 60  # candidates that are compared at most, the closest to the best
_SPREADS = np.geomspace(0.1, 10, 25)  # of true differences, in units of the noise: log-uniform


def probability_best(
    score: FloatArray, noise: FloatArray, generator: np.random.Generator
) -> FloatArray:
    """Probability that each candidate's true score is the largest: float64 [S], sum 1.

    score: [S], larger is better, NaN takes no part; noise: replicates of its error, [R, S],
    which may be correlated. At least one score must be finite.
    """
    probability = np.zeros(len(score))
    ranked = np.argsort(-score)[: np.isfinite(score).sum()]  # NaN sorts last
    lead = score[ranked[0]] - score[ranked]
    error = (noise[:, ranked] - noise[:, ranked[:1]]).std(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        behind = np.where(lead > 0, lead / error, 0.0)
    close = ranked[np.argsort(behind, kind="stable")[: min(MOST, (behind <= _BEHIND).sum())]]
    if len(close) == 1:
        probability[close] = 1.0
        return probability
    draws = _true_scores(score[close], noise[:, close], generator)
    probability[close] = np.bincount(draws.argmax(axis=1), minlength=len(close)) / len(draws)
    return probability


def _true_scores(
    score: FloatArray, noise: FloatArray, generator: np.random.Generator
) -> FloatArray:
    """Draws of the true scores, up to what all have in common: [R, S]."""
    n_draws, n = noise.shape
    # Coordinates of the differences between candidates in which their noise is independent.
    contrasts = _helmert(n)
    variance, axes = np.linalg.eigh(np.atleast_2d(np.cov(noise @ contrasts, rowvar=False)))
    variance = np.maximum(variance, 1e-12 * variance.max() + 1e-300)
    seen = axes.T @ (contrasts.T @ score)
    spread = np.sqrt(variance.mean()) * _SPREADS
    total = spread[:, None] ** 2 + variance
    likelihood = -0.5 * (np.log(total) + seen**2 / total).sum(axis=1)
    weight = np.exp(likelihood - likelihood.max())
    chosen = generator.choice(spread, size=n_draws, p=weight / weight.sum())[:, None] ** 2
    shrunk = chosen / (chosen + variance)
    normal = generator.standard_normal((n_draws, n - 1))
    return (shrunk * seen + np.sqrt(shrunk * variance) * normal) @ (contrasts @ axes).T


def _helmert(n: int) -> FloatArray:
    """Orthonormal contrasts of n values, as columns: [n, n - 1]."""
    size = np.arange(1, n)
    contrasts = np.triu(np.ones((n, n - 1)))
    contrasts[size, size - 1] = -size
    return contrasts / np.sqrt(size * (size + 1))
