"""The paper's fits (section 4): parallel curves, and the power law that fits poorly."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import statsmodels.api as sm

from analysis.curves.metrics import chance_level, larger_is_better
from analysis.curves.points import curve_points
from analysis.curves.scaling import AXES, FloatArray
from analysis.curves.settings import main_settings, settings_of
from analysis.noise.means import margin
from analysis.noise.model_effects import ModelEffects, ModelFit
from analysis.noise.spread import INTERVAL

SLOPE_MARGIN = 0.2  # of the common slope: differences below it leave curves parallel
LAW_MARGIN = 1.5  # times the offsets' residual error from which a power law fits poorly


@dataclass(frozen=True)
class ParallelFit:
    """A base function of log bits plus an offset per precision, against free slopes.

    `offsets`: columns bits, offset (to 16 bit, or the largest precision there is, at equal size),
    low, high (90%). `slopes`: columns bits, slope (its difference to that precision's, per doubling
    of the bits), low, high. `slope`: the common one, at the mean size. `p_value`: of an F test that
    all differences are 0. Errors are of points that share models. `r_squared` of either fit;
    n: points.
    """

    family: str
    offsets: pd.DataFrame
    slopes: pd.DataFrame
    slope: float
    r_squared: float
    r_squared_free: float
    p_value: float
    n: int

    @property
    def verdict(self) -> str:
        """ "parallel" if no slope can differ by a fifth of the common one, "not parallel" if they
        do differ (p < 0.05), else "open": too few points to tell."""
        furthest = self.slopes[["low", "high"]].abs().to_numpy().max()
        if furthest < SLOPE_MARGIN * abs(self.slope):
            return "parallel"
        return "not parallel" if self.p_value < 0.05 else "open"


@dataclass(frozen=True)
class PowerLaw:
    """log(y) = constant + a log(parameters) + b log(bits), y the loss, or 1 - accuracy.

    `terms`: columns term, value, low, high. `residuals`: the points with columns model, bits,
    fitted, residual (of log y). `stderr` is the residual standard error of log y, and
    `stderr_offsets` that of a quadratic in log total bits plus an offset per precision, fitted to
    the same points; in both each model has the same random effect, lest its luck hide the
    difference. `r_squared` and `r_squared_offsets`, without one, are adjusted for the terms.
    """

    family: str
    terms: pd.DataFrame
    r_squared: float
    r_squared_offsets: float
    stderr: float
    stderr_offsets: float
    residuals: pd.DataFrame

    @property
    def verdict(self) -> str:
        """Beside the offsets: "poor" from 1.5 times their residual error, "as good" up to theirs,
        else "open"."""
        ratio = self.stderr / self.stderr_offsets
        return "poor" if ratio >= LAW_MARGIN else "as good" if ratio <= 1 else "open"


def main_points(results: pd.DataFrame, metric: str, axis: str = "total") -> pd.DataFrame:
    """Points of the main settings that can be fitted: finite, and clear of chance.

    Models at chance (the 95 % interval holds guessing) say nothing about scaling.
    """
    points = curve_points(results, metric)
    points = points[np.isfinite(points["value"].astype(float)) & (points[AXES[axis]] > 0)]
    settings = settings_of(points)
    main = main_settings(settings)
    points = points[np.array([setting in main for setting in settings], dtype=bool)]
    if metric != "zero_shot" or points.empty:
        return points
    above = points["value"] - points["task"].map(chance_level)
    return points[~(above <= margin(points["stderr"]))]


def parallel_fits(
    results: pd.DataFrame, metric: str = "zero_shot", axis: str = "total"
) -> list[ParallelFit]:
    """One ParallelFit a family, where at least two precisions have three points each and their
    sizes tell every term from the others.

    The base is quadratic in log bits; the free fit gives every precision its own slope. Each model
    has a random effect: its luck is common to its precisions.
    """
    fits = []
    for family, part in main_points(results, metric, axis).groupby("family", sort=False):
        part = part[part.groupby("bits")["bits"].transform("size") >= 3]
        if part["bits"].nunique() < 2:
            continue
        y = part["value"].to_numpy(dtype=np.float64)
        precisions, x, base = _base_and_offsets(part, axis)
        free = np.column_stack([base, base[:, 3:] * x[:, None]])
        if np.linalg.matrix_rank(free) < free.shape[1]:  # sizes do not tell the terms apart
            continue
        try:
            effects = ModelEffects(y, free, pd.factorize(part["model"])[0], 3)
        except ValueError:  # too few points
            continue
        plain, full = effects.fit(base), effects.fit(free)
        n = base.shape[1]
        fits.append(
            ParallelFit(
                str(family),
                _terms(plain, 3).assign(bits=precisions).rename(columns={"value": "offset"}),
                _terms(full, n).assign(bits=precisions).rename(columns={"value": "slope"}),
                float(plain.value[1]),
                _r_squared(y, base),
                _r_squared(y, free),
                effects.p_value(plain, full),
                len(y),
            )
        )
    return fits


def _r_squared(y: FloatArray, design: FloatArray, adjusted: bool = False) -> float:
    """Of least squares; terms that depend on others count once. NaN where nothing varies."""
    value, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    left, total = ((y - design @ value) ** 2).sum(), ((y - y.mean()) ** 2).sum()
    if not total > 0 or (adjusted and rank >= len(y)):
        return float("nan")
    return float(1 - left / total * ((len(y) - 1) / (len(y) - rank) if adjusted else 1))


def _terms(fit: ModelFit, start: int) -> pd.DataFrame:
    columns = {"value": fit.value, "low": fit.low, "high": fit.high}
    return pd.DataFrame({name: values[start:] for name, values in columns.items()})


def _base_and_offsets(part: pd.DataFrame, axis: str) -> tuple[list[int], FloatArray, FloatArray]:
    """Precisions but the largest; log2(bits) about its mean, [n]; the design: 1, x, x squared and
    an indicator of each of these precisions."""
    precisions = sorted(part["bits"].unique(), reverse=True)[1:]
    x = np.log2(part[AXES[axis]].to_numpy(dtype=np.float64))
    x = x - x.mean()
    steps = [(part["bits"] == k).to_numpy(float) for k in precisions]
    return precisions, x, np.column_stack([np.ones_like(x), x, x**2, *steps])


def power_laws(results: pd.DataFrame, metric: str = "zero_shot") -> list[PowerLaw]:
    """The bivariate power law in parameters and bits, one a family with points enough for it and
    for the offsets it is compared with."""
    points = main_points(results, metric)
    points = points[points["n_params"] > 0]
    value = points["value"].to_numpy(dtype=np.float64)
    points = points.assign(y=1 - value if larger_is_better(metric) else value)
    laws = []
    for family, part in points[points["y"] > 0].groupby("family", sort=False):
        y = np.log(part["y"].to_numpy(dtype=np.float64))
        _, _, base = _base_and_offsets(part, "total")
        if part["bits"].nunique() < 2 or part["n_params"].nunique() < 2:
            continue
        columns = [part[c].to_numpy(dtype=np.float64) for c in ("n_params", "bits")]
        design = sm.add_constant(np.log(np.column_stack(columns)), has_constant="add")
        if np.linalg.matrix_rank(design) < design.shape[1]:  # a size has one precision
            continue
        try:
            effects = ModelEffects(y, base, pd.factorize(part["model"])[0], 3)
        except ValueError:  # too few points
            continue
        law = sm.OLS(y, design).fit()
        stderr, stderr_offsets = (
            float(np.sqrt(fit.left / (len(y) - fit.rank)))
            for fit in (effects.fit(design), effects.fit(base))
        )
        low, high = law.conf_int(1 - INTERVAL).T
        names = ["constant", "log parameters", "log bits"]
        laws.append(
            PowerLaw(
                str(family),
                pd.DataFrame({"term": names, "value": law.params, "low": low, "high": high}),
                float(law.rsquared_adj),
                _r_squared(y, base, adjusted=True),
                stderr,
                stderr_offsets,
                part[["model", "bits"]]
                .assign(fitted=np.exp(law.fittedvalues), residual=law.resid)
                .reset_index(drop=True),
            )
        )
    return laws
