"""Least squares on points that share models: what a model's luck does to all its precisions.

Two precisions of one model stand or fall together, so the points of a curve plot are not
independent. With a random effect per model, its part of every column is taken out to the degree
that models differ (quasi-demeaning; Wooldridge, Econometric Analysis, 2010, section 10.4).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from analysis.curves.scaling import FloatArray
from analysis.noise.means import margin
from analysis.noise.spread import INTERVAL


@dataclass(frozen=True)
class ModelFit:
    """Coefficients with their 90% intervals, each [p]; `left`: the sum of squares left over."""

    value: FloatArray
    low: FloatArray
    high: FloatArray
    left: float
    rank: int


class ModelEffects:
    """Fits of y (float64 [n]) with a random effect per model (int [n]); `free` is the largest
    design matrix, [n, p], of which the first `n_between` columns are what tells models apart.

    Raises ValueError where too few points are left to know the noise within models.
    """

    def __init__(
        self, y: FloatArray, free: FloatArray, model: npt.NDArray[np.intp], n_between: int
    ) -> None:
        self._y, self._model, self._size = y, model, np.bincount(model)
        inner = self._minus_means(free, 1.0)
        self.df = len(y) - len(self._size) - int(np.linalg.matrix_rank(inner))
        if self.df < 1:
            raise ValueError(f"{len(y)} points are too few for {free.shape[1]} terms")
        _, within = _least_squares(inner, self._minus_means(y, 1.0))
        # A variance; an exact fit leaves none.
        self.noise = max(float((within**2).sum() / self.df), 1e-300)
        between = self._means(_least_squares(free, y)[1])
        spare = len(self._size) - n_between
        # Too few models to know how much they differ: all that tells models apart is left out.
        luck = (
            (between**2).sum() / spare - (self.noise / self._size).mean() if spare > 0 else np.inf
        )
        self._share = 1 - np.sqrt(self.noise / (self.noise + self._size * max(0.0, float(luck))))

    def fit(self, design: FloatArray) -> ModelFit:
        share = self._share[self._model]
        x = self._minus_means(design, share)
        value, residual = _least_squares(x, self._minus_means(self._y, share))
        error = np.sqrt(self.noise * np.diag(np.linalg.pinv(x.T @ x)).clip(min=0))
        reach = margin(error, self.df, INTERVAL)
        rank = int(np.linalg.matrix_rank(x))
        return ModelFit(value, value - reach, value + reach, float((residual**2).sum()), rank)

    def p_value(self, plain: ModelFit, free: ModelFit) -> float:
        """Of an F test that what `free` has beyond `plain` is 0."""
        extra = free.rank - plain.rank
        if extra < 1:
            return 1.0
        return float(stats.f.sf((plain.left - free.left) / extra / self.noise, extra, self.df))

    def _means(self, values: FloatArray) -> FloatArray:
        """Mean over the points of each model, [models] or [models, p]."""
        total = np.zeros((len(self._size), *values.shape[1:]))
        np.add.at(total, self._model, values)
        return (total.T / self._size).T

    def _minus_means(self, values: FloatArray, share: FloatArray | float) -> FloatArray:
        return values - (share * self._means(values)[self._model].T).T


def _least_squares(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Coefficients (the smallest, where columns depend on each other) and residuals."""
    value = np.asarray(np.linalg.lstsq(x, y, rcond=None)[0], dtype=np.float64)
    return value, y - x @ value
