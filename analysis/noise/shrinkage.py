"""What the best of several noisy values is truly worth, and which is the best: empirical Bayes.

Of several values that differ less than their noise, the best looking one owes its place to luck,
and a bootstrap around the values as measured takes that luck for truth: stated 80% is right in
40%. So the true differences between the candidates are taken as normal with a variance that the
values themselves tell (its likelihood against noise alone), and shrunk accordingly. Where the
differences dwarf the noise nothing changes. (Efron, Large-Scale Inference, 2010, chapter 1.)
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.curves.scaling import FloatArray

_BEHIND = 4.0  # standard errors of the lead beyond which a candidate is out, and shrinks nothing
MOST = 60  # candidates that are compared at most, the closest to the best
_SPREADS = np.geomspace(0.1, 10, 25)  # of true differences, in units of the noise: log-uniform


@dataclass(frozen=True, eq=False)
class Posterior:
    """Draws of what candidates are truly worth, given what was measured.

    close: int [n], those that may be the best, the measured best first; draws: float64 [R, n],
    their true scores, shrunk towards each other as far as noise may have driven them apart.
    """

    close: npt.NDArray[np.intp]
    draws: FloatArray

    def probability(self, size: int) -> FloatArray:
        """Probability that each of `size` candidates' true score is the largest: [size], sum 1."""
        probability = np.zeros(size)
        wins = np.bincount(self.draws.argmax(axis=1), minlength=len(self.close))
        probability[self.close] = wins / len(self.draws)
        return probability


def true_scores(score: FloatArray, noise: FloatArray, generator: np.random.Generator) -> Posterior:
    """The posterior of the candidates' true scores.

    score: [S], larger is better, NaN takes no part; noise: replicates of its error, [R, S],
    which may be correlated. At least one score must be finite.
    """
    ranked = np.argsort(-score)[: np.isfinite(score).sum()]  # NaN sorts last
    lead = score[ranked[0]] - score[ranked]
    error = (noise[:, ranked] - noise[:, ranked[:1]]).std(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        behind = np.where(lead > 0, lead / error, 0.0)
    close = ranked[np.argsort(behind, kind="stable")[: min(MOST, (behind <= _BEHIND).sum())]]
    common = score[close].mean() + noise[:, close].mean(axis=1, keepdims=True)
    if len(close) == 1:
        return Posterior(close, common)
    return Posterior(close, common + _differences(score[close], noise[:, close], generator))


def _differences(
    score: FloatArray, noise: FloatArray, generator: np.random.Generator
) -> FloatArray:
    """Draws of the true scores' differences from their mean: [R, S]."""
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
