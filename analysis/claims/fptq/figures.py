"""Figures 1, 3 and 5 to 10: activation distributions by block, a panel a model."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.claims.fptq.sites import as_they_are, before_and_after, by_block, ranges
from analysis.claims.paper import Study
from analysis.figures.style import LEGEND, template

V0, V1 = 15.0, 150.0  # section 4.2: static as they are up to v0, equalized up to v1
_COLUMNS, _PANEL = 3, 230  # panels a row; px a row


@dataclass(frozen=True, eq=False)
class _Line:
    """One line of every panel: `column` of `rows`, those of all models, by block."""

    name: str
    rows: pd.DataFrame
    column: str
    colour: str
    dash: str = "solid"
    width: float = 2


def equalization_figure(study: Study) -> go.Figure:
    """Figure 1: of what norms feed, before and after logarithmic equalization: of the largest and
    the median channel."""
    shown = before_and_after(ranges(study))
    lines = [
        _Line(
            f"{kind}, {channel}, {when}", shown[shown["kind"] == kind], column, colour, dash, width
        )
        for kind, colour in (("QKV", "#4477AA"), ("FC1", "#EE6677"))
        for channel, width, columns in (
            ("largest channel", 2, ("range", "range_read")),
            ("median channel", 1, ("median_channel", "median_channel_read")),
        )
        for column, dash, when in zip(columns, ("solid", "dot"), ("before", "after"), strict=True)
    ]
    return _panels(lines, "Activation ranges before and after logarithmic equalization")


def kinds_figure(study: Study) -> go.Figure:
    """Figures 3 and 5 to 10: of the attention output and the down projection, what all, 99 % and
    half of the tokens stay within; dotted across: v0, v1."""
    found = by_block(as_they_are(study))
    lines = [
        _Line(f"{name}, {tokens}", found[found["kind"] == kind], column, colour, dash)
        for name, kind, colour in (
            ("attention output", "Dense", "#228833"),
            ("down projection", "FC2", "#AA3377"),
        )
        for tokens, column, dash in (
            ("all tokens", "range", "solid"),
            ("99 % of tokens", "token_99", "dash"),
            ("half of the tokens", "median_token", "dot"),
        )
    ]
    figure = _panels(lines, "Activation ranges of attention outputs and down projections")
    for bound in (V0, V1):
        figure.add_hline(y=bound, line={"width": 1, "dash": "dot"})
    return figure


def _panels(lines: Sequence[_Line], title: str) -> go.Figure:
    """A panel a model. Lines of which nothing was recorded are left out. Raises ValueError where
    that is all of them."""
    lines = [line for line in lines if line.rows[line.column].notna().any()]
    models = sorted({str(model) for line in lines for model in line.rows["model"]})
    if not models:
        raise ValueError("no activation ranges were recorded")
    columns = min(_COLUMNS, len(models))
    n = -(-len(models) // columns)
    figure = make_subplots(
        n, columns, subplot_titles=models, shared_yaxes="all", vertical_spacing=0.3 / n
    )
    for i, model in enumerate(models):
        for line in lines:
            part = line.rows[line.rows["model"] == model].sort_values("block")
            look = {"color": line.colour, "dash": line.dash, "width": line.width}
            shared = {"legendgroup": line.name, "showlegend": i == 0, "mode": "lines+markers"}
            drawn = go.Scatter(
                x=part["block"], y=part[line.column], name=line.name, line=look, **shared
            )
            figure.add_trace(drawn, row=i // columns + 1, col=i % columns + 1)
    figure.update_layout(
        template=template(), title=title, height=_PANEL * n + 160, legend=LEGEND,
        margin={"b": 110},
    )  # fmt: skip
    figure.update_xaxes(title="Block", tick0=0, dtick=max(1, _most_blocks(lines) // 8))
    figure.update_yaxes(type="log", dtick=1)
    figure.update_yaxes(title="Largest magnitude", col=1)
    return figure


def _most_blocks(lines: Sequence[_Line]) -> int:
    return max(int(line.rows["block"].max()) + 1 for line in lines)
