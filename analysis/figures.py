"""Scaling curves as a figure: size against a metric, a panel per family."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.budget import format_bits
from analysis.curves import Curve, scaling_curves
from analysis.settings import Setting, main_settings
from analysis.shares import win_shares
from analysis.style import LEGEND, MUTED, SIZE_TITLES, colour, marker, size_axis, template
from analysis.wording import METRIC_NAMES, finding, format_value
from evaluation.task_sets import CHANCE, TASK_SETS

PERPLEXITY_CAP = 100.0  # as the paper's appendix E plots it: above, the model is random anyway
_Y_TITLES = {
    "zero_shot": "Mean zero-shot accuracy (%)",
    "cross_entropy": "Cross-entropy (nats/token; lower is better)",
    "perplexity": "Perplexity (lower is better)",
}
_SHOWN_BESIDE_MAIN = 2  # so many other settings are drawn at once; more wait in the legend


def scaling_figure(
    results: pd.DataFrame,
    metric: str = "zero_shot",
    axis: str = "total",
    task: str | None = None,
    columns: int = 2,
) -> go.Figure:
    """Size against `metric` (paper figure 2): a panel per family, a curve per precision.

    Solid curves are the main setting (the most common data type and block size, linear layers);
    other settings are dashed, and wait in the legend when there are many. Error bars: one
    standard error. Points above the panel's range stand at its upper edge as open triangles,
    diverged ones (NaN or inf) as crosses. The title states the finding. Accuracy is in percent.
    Raises ValueError as scaling_curves does, or when no experiment has the metric.
    """
    curves = scaling_curves(results, metric, axis, task)
    if not curves:
        raise ValueError(f"no experiment has {METRIC_NAMES[metric]}: nothing to draw")
    families = list(dict.fromkeys(curve.family for curve in curves))
    main = main_settings([curve.setting for curve in curves])
    others = {curve.setting for curve in curves} - main
    columns = min(columns, len(families))
    rows = -(-len(families) // columns)
    figure = make_subplots(
        rows, columns, subplot_titles=families, horizontal_spacing=0.09, vertical_spacing=0.2 / rows
    )
    in_legend: set[Setting] = set()
    for i, family in enumerate(families):
        place = {"row": i // columns + 1, "col": i % columns + 1}
        panel = [curve for curve in curves if curve.family == family]
        low, high = _value_range(panel)
        figure.update_yaxes(
            range=[low, high], title_text=_Y_TITLES[metric] if place["col"] == 1 else None, **place
        )
        sizes = np.concatenate([curve.bits for curve in panel])
        figure.update_xaxes(
            size_axis(sizes.min(), sizes.max()),
            title_text=SIZE_TITLES[axis] if place["row"] == rows else None,
            **place,
        )
        for curve in sorted(panel, key=lambda c: c.setting not in main):
            hidden = curve.setting not in main and len(others) > _SHOWN_BESIDE_MAIN
            traces = [_line(curve, curve.setting in main), *_off_scale(curve, high)]
            traces[0].showlegend = curve.setting not in in_legend
            in_legend.add(curve.setting)
            for trace in traces:
                trace.legendgroup = curve.setting.label
                trace.visible = "legendonly" if hidden else True
                figure.add_trace(trace, **place)
        if metric == "zero_shot" and (chance := _chance(panel[0].task)) is not None:
            figure.add_hline(
                100 * chance, line={"color": MUTED, "dash": "dot", "width": 1}, **place
            )
    figure.update_annotations(yshift=8, font={"size": 14})  # clear of marks on the upper edge
    shares = win_shares(results, metric, axis, task, by="bits")
    figure.update_layout(
        template=template(),
        title_text=finding(shares, metric),
        height=130 + 430 * rows,
        margin={"t": 90, "r": 16, "b": 60, "l": 56},
        legend=LEGEND,
        hovermode="closest",
    )
    return figure


def _line(curve: Curve, main: bool) -> go.Scatter:
    scale = 100.0 if curve.metric == "zero_shot" else 1.0
    value = np.where(np.isfinite(curve.value), scale * curve.value, np.nan)
    if curve.metric == "perplexity":
        value = np.minimum(value, PERPLEXITY_CAP)
    bits = curve.setting.bits
    hover = [
        f"<b>{model}</b><br>{curve.setting.label}<br>{format_bits(size)}<br>"
        + format_value(curve.metric, v, e)
        for model, size, v, e in zip(
            curve.models, curve.bits, curve.value, curve.stderr, strict=True
        )
    ]
    return go.Scatter(
        x=curve.bits,
        y=value,
        error_y={"array": scale * curve.stderr, "thickness": 0.8, "width": 0},
        mode="lines+markers",
        name=curve.setting.label,
        line={"color": colour(bits), "width": 2 if main else 1.3, "dash": None if main else "dash"},
        marker={"symbol": marker(bits) + ("" if main else "-open"), "size": 7},
        hovertext=hover,
        hoverinfo="text",
        connectgaps=False,
    )


def _off_scale(curve: Curve, high: float) -> list[go.Scatter]:
    """Markers at the panel's upper edge for points that do not lie inside it."""
    scale = 100.0 if curve.metric == "zero_shot" else 1.0
    finite = np.isfinite(curve.value)
    off = ~finite | (scale * curve.value > high)
    if not off.any():
        return []
    edge = go.Scatter(
        x=curve.bits[off],
        y=np.full(off.sum(), high),
        mode="markers",
        name=f"{curve.setting.label}, off the scale",
        showlegend=False,
        cliponaxis=False,
        marker={
            "symbol": ["triangle-up-open" if ok else "x" for ok in finite[off]],
            "color": colour(curve.setting.bits),
            "size": 10,
            "line": {"width": 2, "color": colour(curve.setting.bits)},
        },
        hovertext=[
            f"<b>{curve.models[i]}</b><br>{curve.setting.label}<br>"
            f"{format_value(curve.metric, curve.value[i], curve.stderr[i])}"
            for i in np.flatnonzero(off)
        ],
        hoverinfo="text",
    )
    return [edge]


def _value_range(panel: Sequence[Curve]) -> tuple[float, float]:
    """A y range that collapsed points do not squash.

    Losses stop at Tukey's upper fence (third quartile + 1.5 interquartile ranges); accuracy
    collapses to chance at worst, so it shows everything.
    """
    scale = 100.0 if panel[0].metric == "zero_shot" else 1.0
    value = np.concatenate([curve.value for curve in panel]) * scale
    error = np.nan_to_num(np.concatenate([curve.stderr for curve in panel]) * scale)
    value, error = value[np.isfinite(value)], error[np.isfinite(value)]
    if not len(value):
        return 0.0, 1.0
    low, high = (value - error).min(), (value + error).max()
    if panel[0].metric != "zero_shot":
        first, third = np.quantile(value, [0.25, 0.75])
        high = min(high, third + 1.5 * (third - first)) if third > first else high
        high = min(high, PERPLEXITY_CAP) if panel[0].metric == "perplexity" else high
    margin = 0.04 * (high - low) or 0.01
    return float(low - margin), float(high + margin)


def _chance(task_set: str) -> float | None:
    """Mean accuracy of guessing on a task set, a fraction."""
    tasks = TASK_SETS.get(task_set)
    return sum(CHANCE[task] for task in tasks) / len(tasks) if tasks else None
