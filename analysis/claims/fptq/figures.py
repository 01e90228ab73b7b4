"""Figures 1, 3 and 5 to 10: activation ranges by block, a panel a model."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.claims.fptq.sites import as_they_are, before_and_after, ranges
from analysis.claims.paper import Study
from analysis.figures.style import LEGEND, template

V0, V1 = 15.0, 150.0  # section 4.2: static as they are up to v0, equalized up to v1
_COLUMNS, _PANEL = 3, 230  # panels a row; px a row


def equalization_figure(study: Study) -> go.Figure:
    """Figure 1: of what norms feed, before and after logarithmic equalization."""
    shown = before_and_after(ranges(study))
    lines = [
        (f"{kind}, {when}", colour, dash, shown[shown["kind"] == kind], column)
        for kind, colour in (("QKV", "#4477AA"), ("FC1", "#EE6677"))
        for column, dash, when in (("range", "solid", "before"), ("range_read", "dot", "after"))
    ]
    return _panels(lines, "Activation ranges before and after logarithmic equalization")


def kinds_figure(study: Study) -> go.Figure:
    """Figures 3 and 5 to 10: of the attention output and the down projection; dotted: v0, v1."""
    found = as_they_are(study)
    found = found.groupby(["model", "kind", "block"], sort=False, as_index=False)["range"].max()
    lines = [
        (name, colour, "solid", found[found["kind"] == kind], "range")
        for name, kind, colour in (
            ("attention output", "Dense", "#228833"),
            ("down projection", "FC2", "#AA3377"),
        )
    ]
    figure = _panels(lines, "Activation ranges of attention outputs and down projections")
    for bound in (V0, V1):
        figure.add_hline(y=bound, line={"width": 1, "dash": "dot"})
    return figure


def _panels(lines: list[tuple[str, str, str, pd.DataFrame, str]], title: str) -> go.Figure:
    """`lines`: name, colour, dash, rows of all models, and the column that is drawn by block.

    Raises ValueError where there are no rows.
    """
    models = sorted({str(model) for *_, rows, _ in lines for model in rows["model"]})
    if not models:
        raise ValueError("no activation ranges were recorded")
    columns = min(_COLUMNS, len(models))
    n = -(-len(models) // columns)
    figure = make_subplots(
        n, columns, subplot_titles=models, shared_yaxes="all", vertical_spacing=0.3 / n
    )
    for i, model in enumerate(models):
        for name, colour, dash, rows, column in lines:
            part = rows[rows["model"] == model].sort_values("block")
            look = {"color": colour, "dash": dash}
            shared = {"legendgroup": name, "showlegend": i == 0, "mode": "lines+markers"}
            line = go.Scatter(x=part["block"], y=part[column], name=name, line=look, **shared)
            figure.add_trace(line, row=i // columns + 1, col=i % columns + 1)
    figure.update_layout(
        template=template(), title=title, height=_PANEL * n + 160, legend=LEGEND,
        margin={"b": 110},
    )  # fmt: skip
    figure.update_xaxes(title="Block", tick0=0, dtick=max(1, _most_blocks(lines) // 8))
    figure.update_yaxes(type="log", dtick=1)
    figure.update_yaxes(title="Largest magnitude", col=1)
    return figure


def _most_blocks(lines: list[tuple[str, str, str, pd.DataFrame, str]]) -> int:
    return max(int(rows["block"].max()) + 1 for *_, rows, _ in lines if len(rows))
