"""Scaling curves drawn: size against a metric, panels of curves, however they are told apart."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.curves.budget import format_bits
from analysis.curves.metrics import PERPLEXITY_CAP, chance_level
from analysis.curves.names import format_value
from analysis.curves.scaling import Curve
from analysis.figures.style import LEGEND, MUTED, SIZE_TITLES, size_axis, template

Y_TITLES = {
    "zero_shot": "Mean zero-shot accuracy (%)",
    "cross_entropy": "Cross-entropy (nats/token; lower is better)",
    "perplexity": "Perplexity (lower is better)",
}


@dataclass(frozen=True)
class Look:
    """How a curve is drawn; curves of one name share a legend entry."""

    name: str
    colour: str
    symbol: str
    dash: str | None = None
    width: float = 2.0
    in_legend_only: bool = False


def draw_curves(
    curves: Sequence[Curve],
    look: Callable[[Curve], Look],
    title: str,
    panel_of: Callable[[Curve], str] = lambda curve: curve.family,
    columns: int = 2,
) -> go.Figure:
    """Curves (not empty; one metric and axis) in panels named by `panel_of`.

    Error bars: one standard error. Points above the panel's range stand at its upper edge as open
    triangles, diverged ones (NaN or inf) as crosses. Accuracy is in percent; dotted: guessing.
    """
    metric, axis = curves[0].metric, curves[0].axis
    names = list(dict.fromkeys(panel_of(curve) for curve in curves))
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    figure = make_subplots(
        rows, columns, subplot_titles=names, horizontal_spacing=0.09, vertical_spacing=0.2 / rows
    )
    in_legend: set[str] = set()
    # Collected and added at once: plotly's own row= and col= look through every panel each time.
    traces: list[dict[str, Any]] = []
    axes: dict[str, dict[str, Any]] = {}
    lines: list[dict[str, Any]] = []
    for i, name in enumerate(names):
        number = str(i + 1) if i else ""  # as make_subplots counts, row by row
        panel = [curve for curve in curves if panel_of(curve) == name]
        low, high = _value_range(panel)
        axes[f"yaxis{number}"] = {"range": [low, high]}
        if i % columns == 0:
            axes[f"yaxis{number}"]["title_text"] = Y_TITLES[metric]
        sizes = np.concatenate([curve.bits for curve in panel])
        axes[f"xaxis{number}"] = size_axis(sizes.min(), sizes.max())
        if i + columns >= len(names):  # nothing stands below this panel
            axes[f"xaxis{number}"]["title_text"] = SIZE_TITLES[axis]
        for curve in panel:
            drawn = look(curve)
            first = drawn.name not in in_legend
            in_legend.add(drawn.name)
            shared = {
                "legendgroup": drawn.name,
                "visible": "legendonly" if drawn.in_legend_only else True,
                "xaxis": f"x{number}",
                "yaxis": f"y{number}",
            }
            own = [_line(curve, drawn) | {"showlegend": first}, *_off_scale(curve, drawn, high)]
            traces += [trace | shared for trace in own]
        chance = chance_level(panel[0].task) if metric == "zero_shot" else np.nan
        if chance == chance:  # known
            line = {"color": MUTED, "dash": "dot", "width": 1}
            place = {"xref": f"x{number} domain", "yref": f"y{number}"}
            ends = {"x0": 0, "x1": 1, "y0": 100 * chance, "y1": 100 * chance}
            lines.append({"type": "line", "line": line, **place, **ends})
    figure.add_traces(traces)
    figure.update_annotations(yshift=8, font={"size": 14})  # clear of marks on the upper edge
    figure.update_layout(
        axes,
        shapes=lines,
        template=template(),
        title_text=title,
        height=130 + 430 * rows,
        margin={"t": 90, "r": 16, "b": 60, "l": 56},
        legend=LEGEND,
        hovermode="closest",
    )
    return figure


def _line(curve: Curve, look: Look) -> dict[str, Any]:
    scale = 100.0 if curve.metric == "zero_shot" else 1.0
    value = np.where(np.isfinite(curve.value), scale * curve.value, np.nan)
    if curve.metric == "perplexity":
        value = np.minimum(value, PERPLEXITY_CAP)
    hover = [
        f"<b>{model}</b><br>{curve.setting.label}<br>{format_bits(size)}<br>"
        + format_value(curve.metric, v, e)
        for model, size, v, e in zip(
            curve.models, curve.bits, curve.value, curve.stderr, strict=True
        )
    ]
    return dict(
        type="scatter",
        x=curve.bits,
        y=value,
        error_y={"array": scale * curve.stderr, "thickness": 0.8, "width": 0},
        mode="lines+markers",
        name=look.name,
        line={"color": look.colour, "width": look.width, "dash": look.dash},
        marker={"symbol": look.symbol, "size": 7},
        hovertext=hover,
        hoverinfo="text",
        connectgaps=False,
    )


def _off_scale(curve: Curve, look: Look, high: float) -> list[dict[str, Any]]:
    """Markers at the panel's upper edge for points that do not lie inside it."""
    scale = 100.0 if curve.metric == "zero_shot" else 1.0
    finite = np.isfinite(curve.value)
    off = ~finite | (scale * curve.value > high)
    if not off.any():
        return []
    edge = dict(
        type="scatter",
        x=curve.bits[off],
        y=np.full(off.sum(), high),
        mode="markers",
        name=f"{look.name}, off the scale",
        showlegend=False,
        cliponaxis=False,
        marker={
            "symbol": ["triangle-up-open" if ok else "x" for ok in finite[off]],
            "color": look.colour,
            "size": 10,
            "line": {"width": 2, "color": look.colour},
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
