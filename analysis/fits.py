"""The paper's fits (section 4): parallel curves, and the power law that fits poorly."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import statsmodels.api as sm

from analysis.curves import AXES
from analysis.metrics import curve_points, larger_is_better
from analysis.settings import main_settings, settings_of
from analysis.spread import INTERVAL
from evaluation.task_sets import CHANCE, TASK_SETS


@dataclass(frozen=True)
class ParallelFit:
    """A base function of log bits plus an offset per precision, against free curves.

    `offsets`: columns bits, offset (to 16 bit, or the largest precision there is, at equal size),
    low, high (90%). `p_value`: of an F test that the free fit's extra slopes are all 0: small
    means not parallel. `r_squared` of either fit; n: points.
    """

    family: str
    offsets: pd.DataFrame
    r_squared: float
    r_squared_free: float
    p_value: float
    n: int


@dataclass(frozen=True)
class PowerLaw:
    """log(y) = constant + a log(parameters) + b log(bits), y the loss, or 1 - accuracy.

    `terms`: columns term, value, low, high. `residuals`: the points with columns family, model,
    bits, fitted, residual (of log y).
    """

    terms: pd.DataFrame
    r_squared: float
    residual_stderr: float
    residuals: pd.DataFrame


def main_points(results: pd.DataFrame, metric: str, axis: str = "total") -> pd.DataFrame:
    """Points of the main settings that can be fitted: finite, and clear of chance.

    Models at chance (within two standard errors of guessing) say nothing about scaling.
    """
    points = curve_points(results, metric)
    points = points[np.isfinite(points["value"].astype(float)) & (points[AXES[axis]] > 0)]
    settings = settings_of(points)
    main = main_settings(settings)
    points = points[[setting in main for setting in settings]]
    if metric != "zero_shot" or points.empty:
        return points
    above = points["value"] - points["task"].map(chance_of)
    return points[~(above <= 2 * points["stderr"])]


def chance_of(task_set: str) -> float:
    """Mean accuracy of guessing on a task set; NaN for a set that is not ours."""
    tasks = TASK_SETS.get(task_set)
    return sum(CHANCE[task] for task in tasks) / len(tasks) if tasks else np.nan


def parallel_fits(
    results: pd.DataFrame, metric: str = "zero_shot", axis: str = "total"
) -> list[ParallelFit]:
    """One ParallelFit a family, where at least two precisions have three points each.

    The base is quadratic in log bits; the free fit gives every precision its own slope.
    """
    fits = []
    points = main_points(results, metric, axis)
    for family, part in points.groupby("family", sort=False):
        part = part[part.groupby("bits")["bits"].transform("size") >= 3]
        precisions = sorted(part["bits"].unique(), reverse=True)
        x = np.log(part[AXES[axis]].to_numpy(dtype=np.float64))
        if len(precisions) < 2:
            continue
        x = (x - x.mean()) / x.std()
        steps = np.stack([(part["bits"] == k).to_numpy(float) for k in precisions[1:]], axis=1)
        base = np.column_stack([np.ones_like(x), x, x**2, steps])
        slopes = steps * x[:, None]
        if len(x) <= base.shape[1] + slopes.shape[1]:
            continue
        y = part["value"].to_numpy(dtype=np.float64)
        plain, free = sm.OLS(y, base).fit(), sm.OLS(y, np.column_stack([base, slopes])).fit()
        low, high = plain.conf_int(1 - INTERVAL)[3:].T
        offsets = pd.DataFrame(
            {"bits": precisions[1:], "offset": plain.params[3:], "low": low, "high": high}
        )
        fits.append(
            ParallelFit(
                str(family),
                offsets,
                float(plain.rsquared),
                float(free.rsquared),
                float(free.compare_f_test(plain)[1]),
                len(x),
            )
        )
    return fits


def power_law(results: pd.DataFrame, metric: str = "zero_shot") -> PowerLaw:
    """The bivariate power law in parameters and bits, over all families. ValueError: < 5 points."""
    points = main_points(results, metric)
    points = points[points["n_params"] > 0]
    value = points["value"].to_numpy(dtype=np.float64)
    y = 1 - value if larger_is_better(metric) else value
    points, y = points[y > 0], y[y > 0]
    if len(y) < 5:
        raise ValueError(f"a power law of {metric} needs 5 points, there are {len(y)}")
    columns = [points[c].to_numpy(dtype=np.float64) for c in ("n_params", "bits")]
    fit = sm.OLS(np.log(y), sm.add_constant(np.log(np.column_stack(columns)))).fit()
    low, high = fit.conf_int(1 - INTERVAL).T
    names = ["constant", "log parameters", "log bits"]
    residuals = points[["family", "model", "bits"]].assign(
        fitted=np.exp(fit.fittedvalues), residual=fit.resid
    )
    return PowerLaw(
        pd.DataFrame({"term": names, "value": fit.params, "low": low, "high": high}),
        float(fit.rsquared),
        float(np.sqrt(fit.mse_resid)),
        residuals.reset_index(drop=True),
    )
