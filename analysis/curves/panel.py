"""The curves of one family as one table, so that thousands of replicates are read at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from analysis.curves.metrics import larger_is_better
from analysis.curves.scaling import SAME_PLACE, Curve, FloatArray


@dataclass(frozen=True, eq=False)
class Panel:
    """Curves of one family and metric: a row a curve, a column a place along it.

    log_bits: float64 [S, M], inf after a curve's last point; value, stderr: [S, M], NaN there; df:
    [S, M], of the errors, inf there; model: int [S, M] into `models`, -1 there. `better` is 1 or
    -1: the sign of improvement.
    """

    curves: tuple[Curve, ...]
    models: tuple[str, ...]
    log_bits: FloatArray
    value: FloatArray
    stderr: FloatArray
    model: npt.NDArray[np.intp]
    better: float
    df: FloatArray

    @cached_property
    def precisions(self) -> FloatArray:
        """Bits of each curve, float64 [S]: 1.58 is a precision too."""
        return np.array([curve.setting.bits for curve in self.curves], dtype=np.float64)

    def brackets(
        self, budgets: FloatArray, keep: npt.NDArray[np.bool_] | None = None
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], FloatArray]:
        """Place at or below, place above, and its weight, each [..., S, m]; budgets: bits, [m].

        `keep`: bool [..., S, M], the points that exist (by default all). The weight is NaN where a
        curve does not reach, and 0 on a point. Same arithmetic as Curve.locate.
        """
        query = np.log(budgets)
        width = self.log_bits.shape[1]
        exists = np.isfinite(self.log_bits) if keep is None else keep & np.isfinite(self.log_bits)
        # Points lie in order: how many are at or below each budget, [S, m].
        count = (self.log_bits[:, :, None] <= query + SAME_PLACE).sum(axis=1)
        place = np.arange(width)
        last = np.maximum.accumulate(np.where(exists, place, -1), axis=-1)
        following = np.where(exists, place, width)[..., ::-1]
        following = np.minimum.accumulate(following, axis=-1)[..., ::-1]
        row = np.arange(len(self.curves))[:, None]
        low = np.where(count > 0, last[..., row, np.maximum(count, 1) - 1], -1)
        high = np.where(count < width, following[..., row, np.minimum(count, width - 1)], width)
        reached, ends = low >= 0, high == width
        low = np.maximum(low, 0)
        start = self.log_bits[row, low]
        stop = self.log_bits[row, np.where(ends, low, high)]
        with np.errstate(invalid="ignore", divide="ignore"):
            weight = (query - start) / (stop - start)
        on_point = np.abs(query - start) <= SAME_PLACE
        weight = np.where(on_point, 0.0, np.where(ends, np.nan, weight))
        weight = np.where(reached, weight, np.nan)
        # A weight of 0 must not touch the next point, which may be infinite: 0 * inf is NaN.
        return low, np.where(on_point | ends, low, high), weight

    def read(
        self,
        budgets: FloatArray,
        value: FloatArray | None = None,
        keep: npt.NDArray[np.bool_] | None = None,
    ) -> FloatArray:
        """Curves at budgets (bits, [m]): float64 [..., S, m], NaN where a curve has no value.

        `value`: [..., S, M] replicates of `self.value`; `keep` as in brackets.
        """
        value = self.value if value is None else value
        low, high, weight = self.brackets(budgets, keep)
        if low.ndim == 2:  # the same places in all replicates: faster to take along one axis
            start = self.log_bits.shape[1] * np.arange(len(self.curves))[:, None]
            points = value.reshape(*value.shape[:-2], -1)
            result, second = points.take(low + start, axis=-1), points.take(high + start, axis=-1)
        else:
            value = np.broadcast_to(value, (len(low), *value.shape[-2:]))
            result, second = (np.take_along_axis(value, i, axis=-1) for i in (low, high))
        with np.errstate(invalid="ignore", over="ignore"):
            result *= 1 - weight
            second *= weight
            result += second
        result[~np.isfinite(result)] = np.nan
        return result


def alike(keep: npt.NDArray[np.bool_], most: int | None = None) -> list[npt.NDArray[np.intp]]:
    """The replicates ([R, S, M]) of the same points together, at most `most`: int arrays of them.

    A few models can be drawn in a few ways only: what replicates have in common is made once.
    """
    _, which = np.unique(keep.reshape(len(keep), -1), axis=0, return_inverse=True)
    ends = np.cumsum(np.bincount(which))[:-1]
    groups = np.split(np.argsort(which, kind="stable"), ends)
    most = most or len(keep)
    return [rows[i : i + most] for rows in groups for i in range(0, len(rows), most)]


def make_panel(curves: Sequence[Curve]) -> Panel:
    """The curves (one family, metric and axis; not empty) as a table."""
    width = max(len(curve.bits) for curve in curves)
    models = tuple(dict.fromkeys(model for curve in curves for model in curve.models))
    number = {model: i for i, model in enumerate(models)}
    shape = (len(curves), width)
    log_bits, value, stderr = np.full(shape, np.inf), np.full(shape, np.nan), np.full(shape, np.nan)
    model = np.full(shape, -1, dtype=np.intp)
    df = np.full(shape, np.inf)
    for i, curve in enumerate(curves):
        n = len(curve.bits)
        log_bits[i, :n], value[i, :n] = np.log(curve.bits), curve.value
        stderr[i, :n] = curve.stderr
        if curve.df:
            df[i, :n] = curve.df
        model[i, :n] = [number[name] for name in curve.models]
    better = 1.0 if larger_is_better(curves[0].metric) else -1.0
    return Panel(tuple(curves), models, log_bits, value, stderr, model, better, df)


def read_errors(panel: Panel, budgets: FloatArray) -> FloatArray:
    """Standard error of every curve at budgets (bits, [m]): [S, m], NaN where it is not known.

    As Curve.at: the two neighbouring models' errors, taken as independent.
    """
    low, high, weight = panel.brackets(budgets)
    row = np.arange(len(panel.curves))[:, None]
    above = np.where(weight > 0, weight * panel.stderr[row, high], 0.0)
    stderr = np.hypot((1 - weight) * panel.stderr[row, low], above)
    return np.where(np.isfinite(panel.read(budgets)), stderr, np.nan)


def precisions_reaching(panel: Panel, read: FloatArray) -> npt.NDArray[np.intp]:
    """How many precisions have a value, int [..., m], given the curves' values [..., S, m]."""
    reached = np.isfinite(read)
    of_curve = panel.precisions
    each = [reached[..., of_curve == k, :].any(axis=-2) for k in np.unique(of_curve)]
    return np.sum(each, axis=0)


def run_ends(panel: Panel) -> FloatArray:
    """The sizes (bits, sorted) at which a curve begins or ends: also beside diverged points."""
    finite = np.pad(np.isfinite(panel.value), ((0, 0), (1, 1)))
    starts = finite[:, 1:-1] & ~finite[:, :-2]
    ends = finite[:, 1:-1] & ~finite[:, 2:]
    sizes = np.full(panel.value.shape, np.nan)
    for i, curve in enumerate(panel.curves):
        sizes[i, : len(curve.bits)] = curve.bits
    return np.unique(sizes[starts | ends])


def overlap_range(curves: Sequence[Curve]) -> tuple[float, float] | None:
    """Smallest and largest budget (bits) at which at least two curves have a value."""
    panel = make_panel(curves)
    places = run_ends(panel)
    shared = places[np.isfinite(panel.read(places)).sum(axis=0) >= 2]
    return (float(shared[0]), float(shared[-1])) if len(shared) else None
