"""The questions the other way round: how many bits a score takes, and what is worth loading."""

import numpy as np
import pandas as pd

from analysis.answers.contest import DROPPED, competitors
from analysis.answers.optimal import check_family
from analysis.curves.budget import format_bits
from analysis.curves.metrics import larger_is_better
from analysis.curves.names import name_metric
from analysis.curves.points import curve_points
from analysis.curves.scaling import AXES, Curve
from analysis.curves.settings import settings_of


def smallest_budget(
    results: pd.DataFrame,
    target: float,
    family: str | None = None,
    metric: str = "zero_shot",
    axis: str = "total",
    task: str | None = None,
) -> pd.DataFrame:
    """The fewest bits at which each family reaches `target` (accuracy as a fraction, or a loss).

    Every setting's interpolated curve is followed from small to large; the first one to reach the
    target wins. Columns: family, reached, budget_bits and budget (of the winner), bits, setting,
    model_at_or_below, model_above (None on a point), runner_up, runner_up_bits, best_value (the
    family's best experiment, for targets out of reach), and where what was dropped by screening
    could come first, reason (`reached` is None then). Raises ValueError as optimal does, and for a
    target that nothing can have.
    """
    possible = {"zero_shot": (0.0, 1.0), "perplexity": (1.0, np.inf)}.get(metric, (0.0, np.inf))
    if not possible[0] <= target <= possible[1]:
        what = "a fraction, 1 at most" if metric == "zero_shot" else f"{possible[0]:g} at least"
        raise ValueError(f"{target:g} to reach: {name_metric(metric, [])} is {what}")
    if family is not None:
        check_family(results, family)
        results = results[results["family"] == family]
    better = 1.0 if larger_is_better(metric) else -1.0
    rows = []
    for name, curves in competitors(results, metric, axis, task).items():
        reached = [(place, curve) for curve in curves if (place := reaches(curve, target, better))]
        reached.sort(key=lambda pair: pair[0][0])
        finite = np.concatenate([c.value[np.isfinite(c.value)] for c in curves])
        row: dict[str, object] = {"family": name, "reached": bool(reached)}
        row["best_value"] = better * (better * finite).max() if len(finite) else np.nan
        if any(curve.screened for curve in curves):
            row |= {"reached": None, "reason": f"undetermined: {DROPPED}"}
        elif reached:
            (bits, index), curve = reached[0]
            row |= {
                "budget_bits": bits,
                "budget": format_bits(bits),
                "bits": curve.setting.bits,
                "setting": curve.setting.label,
                "model_at_or_below": curve.models[index],
                "model_above": curve.models[index + 1] if bits > curve.bits[index] else None,
            }
        if len(reached) > 1 and "reason" not in row:
            row |= {"runner_up": reached[1][1].setting.label, "runner_up_bits": reached[1][0][0]}
        rows.append(row)
    columns = ["family", "reached", "budget_bits", "budget", "bits", "setting"]
    columns += ["model_at_or_below", "model_above", "runner_up", "runner_up_bits", "best_value"]
    columns += ["reason"] if any("reason" in row for row in rows) else []
    return pd.DataFrame(rows).reindex(columns=columns)


def reaches(curve: Curve, target: float, better: float) -> tuple[float, int] | None:
    """Where a curve first is at `target` or better: (bits, index of the point at or below)."""
    score, goal, x = better * curve.value, better * target, np.log(curve.bits)
    for i in range(len(score)):
        if np.isfinite(score[i]) and score[i] >= goal:
            if i == 0 or not np.isfinite(score[i - 1]):
                return float(curve.bits[i]), i
            weight = (goal - score[i - 1]) / (score[i] - score[i - 1])
            if weight >= 1:
                return float(curve.bits[i]), i
            return float(np.exp(x[i - 1] + weight * (x[i] - x[i - 1]))), i - 1
    return None


def pareto_front(
    results: pd.DataFrame,
    family: str | None = None,
    metric: str = "zero_shot",
    axis: str = "total",
    task: str | None = None,
) -> pd.DataFrame:
    """The experiments that no smaller or equal one matches, smallest first.

    Over all families together, or the one asked for; families scored on different tasks do not
    compare, so each task has its own front. Columns: task, family, model, setting, bits,
    size_bits, size, value, stderr. Raises ValueError as curve_points does, or for an unknown axis.
    """
    if axis not in AXES:
        raise ValueError(f"unknown axis {axis!r}: choose one of {', '.join(AXES)}")
    if family is not None:
        check_family(results, family)
        results = results[results["family"] == family]
    points = curve_points(results, metric, task)
    size = AXES[axis]
    points = points[np.isfinite(points["value"].astype(float)) & (points[size] > 0)]
    better = 1.0 if larger_is_better(metric) else -1.0
    fronts = []
    for _, part in points.assign(_score=better * points["value"]).groupby("task"):
        part = part.sort_values([size, "_score"], ascending=[True, False], kind="stable")
        best_before = part["_score"].cummax().shift(fill_value=-np.inf)
        fronts.append(part[part["_score"] > best_before])
    columns = ["task", "family", "model", "setting", "bits", "size_bits", "size", "value", "stderr"]
    if not fronts:
        return pd.DataFrame(columns=columns)
    front = pd.concat(fronts, ignore_index=True)
    labels = [setting.label for setting in settings_of(front)]
    sizes = front[size].to_numpy(dtype=np.float64)
    return front.assign(
        setting=labels, size_bits=sizes, size=[format_bits(bits) for bits in sizes]
    )[columns]
