"""Scaling curves: a metric against log(bits), one curve per family and precision setting.

The paper (section 4) found that power laws in parameters and precision fit poorly and that linear
interpolation represents the scaling of each precision faithfully, so that is what a curve is.
It never extrapolates, and a diverged model (NaN or inf) breaks it: there is no value between that
model and its neighbours.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.curves.metrics import SCREENED, Part
from analysis.curves.points import curve_points, degrees_of_freedom
from analysis.curves.remembering import once
from analysis.curves.settings import numbered
from quantizers.setting import SETTING_COLUMNS, Setting

FloatArray = npt.NDArray[np.float64]

AXES = {"total": "total_bits", "quantized": "quantized_bits", "nominal": "nominal_bits"}
"""What is counted as a model's size: everything, the quantized matrices, n_params x bits/param."""

SAME_PLACE = 1e-9  # in log(bits): rounding of a budget grid, far below one bit


@dataclass(frozen=True, eq=False)
class Curve:
    """Points of one curve, sorted by size. `value` is NaN or inf at `broken` points.

    bits, value, stderr: float64 [n]; models, n_params: one entry a point. `stderr` is NaN where
    is known. experiments: the id behind each point, "" where a point merges repeats of one model;
    parts: what each value is the mean of. Two models of one size are two points, in order of name.
    screened: of its family an adaptive sweep dropped experiments without asking about this axis.
    df: degrees of freedom of the stored errors, [n]: items less one, inf for shares of right items
    and where the number of items is not known; () for all inf.
    """

    family: str
    setting: Setting
    metric: str
    task: str
    axis: str
    models: tuple[str, ...]
    n_params: tuple[int | None, ...]
    bits: FloatArray
    value: FloatArray
    stderr: FloatArray
    experiments: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    screened: bool = False
    df: tuple[float, ...] = ()

    @property
    def broken(self) -> tuple[str, ...]:
        """Models that diverged in this setting: they interrupt the curve."""
        finite = np.isfinite(self.value)
        return tuple(model for model, ok in zip(self.models, finite, strict=True) if not ok)

    def locate(self, budgets: FloatArray) -> tuple[npt.NDArray[np.intp], FloatArray]:
        """Index of the point at or below each budget and the weight of the one after it.

        The weight is NaN where the curve has no value: outside its points or beside a broken one.
        It is exactly 0 or 1 on a point, so that a point beside a broken one keeps its value.
        """
        x, q = np.log(self.bits), np.log(budgets)
        index = np.clip(np.searchsorted(x, q + SAME_PLACE, side="right") - 1, 0, len(x) - 1)
        after = np.minimum(index + 1, len(x) - 1)
        width = np.where(after > index, x[after] - x[index], 1.0)
        weight = (q - x[index]) / width
        weight = np.where(np.abs(q - x[index]) <= SAME_PLACE, 0.0, weight)
        finite = np.isfinite(self.value)
        known = finite[index] & ((weight == 0) | (finite[after] & (weight > 0) & (weight < 1)))
        known &= (weight == 0) | (after > index)
        return index, np.where(known, weight, np.nan)

    def at(self, budgets: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Value and standard error at each budget (bits, [m]); NaN where the curve has no value.

        Linear in log(bits) between neighbouring models. The error is propagated from the two
        models' stored errors, taken as independent: sqrt(((1-w) s0)^2 + (w s1)^2).
        """
        index, weight = self.locate(budgets)
        after = np.minimum(index + 1, len(self.bits) - 1)
        # A weight of 0 must not touch the next point, which may be infinite: 0 * inf is NaN.
        after = np.where(weight == 0, index, after)
        value = (1 - weight) * self.value[index] + weight * self.value[after]
        stderr = np.hypot((1 - weight) * self.stderr[index], weight * self.stderr[after])
        return value, stderr


def scaling_curves(
    results: pd.DataFrame,
    metric: str = "zero_shot",
    axis: str = "total",
    task: str | None = None,
) -> list[Curve]:
    """All scaling curves in `results`, by family (in order of appearance) and bits.

    `metric` and `task` as in metrics.curve_points, `axis` one of AXES. Points without a size on
    that axis are left out. Repeats of one model and setting (for example at two compute dtypes) are
    averaged, value and error alike: they are scored on the same items, so repeating does not shrink
    the error. Raises ValueError for an unknown metric, axis or task.
    """
    return list(once(_make_curves, results, metric, axis, task))


def _make_curves(results: pd.DataFrame, metric: str, axis: str, task: str | None) -> list[Curve]:
    if axis not in AXES:
        raise ValueError(f"unknown axis {axis!r}: choose one of {', '.join(AXES)}")
    points = curve_points(results, metric, task)
    points = points.assign(df=degrees_of_freedom(points))
    points = _merge_repeats(points[points[AXES[axis]] > 0], AXES[axis])
    if points.empty:
        return []
    order = {family: i for i, family in enumerate(points["family"].unique())}
    group = numbered(points, ["family", *SETTING_COLUMNS])
    size = points[AXES[axis]].to_numpy(dtype=np.float64)
    name = points["model"].to_numpy(dtype=object).astype(str)
    rows = np.lexsort((name, size, group))
    points, size, group = points.iloc[rows], size[rows], group[rows]
    ends = [0, *(np.flatnonzero(np.diff(group)) + 1), len(group)]
    value, stderr = (points[c].to_numpy(dtype=np.float64) for c in ("value", "stderr"))
    names = ("model", "experiment_id", "task", "family", "parts")
    models, ids, tasks, families, parts = (points[c].to_numpy(dtype=object).tolist() for c in names)
    df = points["df"].to_numpy(dtype=np.float64).tolist()
    n_params = [None if pd.isna(n) else int(n) for n in points["n_params"].tolist()]
    settings = points[list(SETTING_COLUMNS)].iloc[ends[:-1]].to_dict("records")
    asked = points[SCREENED].tolist() if SCREENED in points else [None] * len(points)
    curves = [
        Curve(
            family=families[start],
            setting=Setting.from_row(setting),
            metric=metric,
            task=tasks[start],
            axis=axis,
            models=tuple(models[start:end]),
            n_params=tuple(n_params[start:end]),
            bits=size[start:end],
            value=value[start:end],
            stderr=stderr[start:end],
            experiments=tuple(ids[start:end]),
            parts=parts[start],
            screened=not pd.isna(asked[start]) and axis not in asked[start].split(","),
            df=tuple(df[start:end]),
        )
        for start, end, setting in zip(ends, ends[1:], settings, strict=False)
    ]
    return sorted(curves, key=lambda c: (order[c.family], c.setting.bits, c.setting.label))


def _merge_repeats(points: pd.DataFrame, size: str) -> pd.DataFrame:
    """`points` with one row per model and place on a curve."""
    place = ["family", *SETTING_COLUMNS, size, "model"]
    number = numbered(points, place)
    repeated = np.bincount(number)[number] > 1
    if not repeated.any():
        return points
    merged = points[repeated].groupby(place, dropna=False, sort=False)
    first = merged.first().assign(
        experiment_id="",
        value=merged["value"].agg(lambda v: v.to_numpy(dtype=np.float64).mean()),  # NaN stays
        stderr=merged["stderr"].agg(lambda v: v.to_numpy(dtype=np.float64).mean()),
    )
    # `first` would fill a missing key with another row's: take the keys from the index instead.
    return pd.concat([points[~repeated], first.reset_index()[points.columns]])
