"""The bit-optimal precision along the axis of budgets, as a figure."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.answers.shares import winners
from analysis.curves.budget import format_bits
from analysis.curves.names import METRIC_NAMES
from analysis.figures.style import LEGEND, SIZE_TITLES, colour, size_axis, template
from analysis.noise.bootstrap import ItemScores, no_item_scores


def optimal_figure(
    results: pd.DataFrame,
    metrics: Sequence[str] = ("zero_shot", "cross_entropy"),
    axis: str = "total",
    task: str | None = None,
    scores: ItemScores = no_item_scores,
) -> go.Figure:
    """Which precision is bit-optimal at each budget: one strip per family and metric.

    Strong colour: the lead is clear (its 95 % interval leaves out 0); pale: it is not. Full height:
    every setting of the family has a value there; thin: some do not reach. Nothing where
    undetermined.
    """
    figure = go.Figure()
    precisions: set[float] = set()
    strips, lows, highs = [], [], []
    for metric in metrics:
        table = winners(results, metric, axis, task, scores)
        for family, won in table.groupby("family", sort=False):
            strips.append(f"{family}<br>{METRIC_NAMES[metric]}")
            lows.append(won["budget_bits"].min())
            highs.append(won["budget_bits"].max())
            precisions |= set(won["bits"])
            figure.add_traces(_strip(won, strips[-1]))
    figure.add_traces([_legend_entry(bits) for bits in sorted(precisions)])
    figure.update_layout(
        template=template(),
        title_text="The bit-optimal precision at each budget",
        height=140 + 58 * len(strips),
        margin={"t": 50, "r": 20, "b": 50, "l": 60},
        legend=LEGEND | {"itemclick": False},
        xaxis=size_axis(min(lows), max(highs)) | {"title_text": SIZE_TITLES[axis]} if lows else {},
        yaxis={
            "categoryarray": strips[::-1],
            "categoryorder": "array",
            "range": [-0.6, len(strips) - 0.4],
            "showgrid": False,
        },
    )
    return figure


def _legend_entry(bits: float) -> go.Scatter:
    """A full-strength key for a colour: a strip's own may be pale."""
    line = {"color": colour(bits), "width": 12}
    return go.Scatter(x=[None], y=[None], mode="lines", name=f"{bits:g}-bit", line=line)


def _strip(won: pd.DataFrame, name: str) -> list[go.Scatter]:
    """Runs of budgets with one winner as thick lines at height `name`, a trace per look."""
    half = np.exp(np.diff(np.log(won["budget_bits"])).min() / 2) if len(won) > 1 else 1.0
    # A run ends where the winner or its sureness changes, or where budgets were left out.
    look = won[["bits", "clear", "complete"]]
    jump = won["budget_bits"].pct_change() > half**3 - 1
    run = ((look != look.shift()).any(axis=1) | jump).cumsum()
    traces: dict[tuple, go.Scatter] = {}
    for _, part in won.groupby(run):
        bits, sure, complete = (part[column].iloc[0] for column in look.columns)
        trace = traces.setdefault(
            (bits, sure, complete),
            go.Scatter(
                x=[],
                y=[],
                mode="lines",
                name=f"{bits:g}-bit",
                showlegend=False,
                opacity=1.0 if sure else 0.4,
                line={"color": colour(bits), "width": 26 if complete else 12},
                hoverinfo="text",
                hovertext=[],
            ),
        )
        low, high = part["budget_bits"].iloc[0] / half, part["budget_bits"].iloc[-1] * half
        text = (
            f"<b>{part['setting'].mode().iloc[0]}</b><br>{format_bits(low)} to {format_bits(high)}"
            f"<br>lead {'clear' if sure else 'not clear: its 95% interval holds 0'}"
            + ("" if complete else "<br>some settings do not reach these budgets")
        )
        trace.x = [*trace.x, low, high, None]
        trace.y = [*trace.y, name, name, None]
        trace.hovertext = [*trace.hovertext, text, text, None]
    return list(traces.values())
