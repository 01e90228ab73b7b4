"""Scaling curves as a figure: size against a metric, a panel per family."""

import pandas as pd
import plotly.graph_objects as go

from analysis.curves.names import METRIC_NAMES
from analysis.curves.scaling import Curve, scaling_curves
from analysis.curves.settings import main_settings
from analysis.figures.drawing import Look, draw_curves
from analysis.figures.style import colour, marker
from analysis.findings.finding import find
from analysis.findings.wording import headline
from analysis.noise.bootstrap import ItemScores, no_item_scores

_SHOWN_BESIDE_MAIN = 2  # so many other settings are drawn at once; more wait in the legend
_MOST_BESIDE_MAIN = 12  # beyond, a legend is no help: the table of experiments has them all


def scaling_figure(
    results: pd.DataFrame,
    metric: str = "zero_shot",
    axis: str = "total",
    task: str | None = None,
    columns: int = 2,
    scores: ItemScores = no_item_scores,
) -> go.Figure:
    """Size against `metric` (paper figure 2): a panel per family, a curve per precision.

    Solid curves are the main setting (the most common data type and block size, linear layers);
    other settings are dashed, and where they win nowhere they wait in the legend when there are
    many, or are left out when there are very many. The rest as in draw_curves. The title states
    the finding.
    Raises ValueError as scaling_curves does, or when no experiment has the metric.
    """
    curves = scaling_curves(results, metric, axis, task)
    if not curves:
        raise ValueError(f"no experiment has {METRIC_NAMES[metric]}: nothing to draw")
    main = main_settings([curve.setting for curve in curves])
    others = {curve.setting for curve in curves} - main
    found = find(results, metric, axis, task, scores)
    winning = set(found.shares["setting"])
    if len(others) > _MOST_BESIDE_MAIN:
        curves = [c for c in curves if c.setting in main or c.setting.label in winning]

    def look(curve: Curve) -> Look:
        setting = curve.setting
        if setting in main:
            return Look(setting.label, colour(setting.bits), marker(setting.bits))
        hidden = len(others) > _SHOWN_BESIDE_MAIN and setting.label not in winning
        symbol = marker(setting.bits) + "-open"
        return Look(setting.label, colour(setting.bits), symbol, "dash", 1.3, hidden)

    order = {family: i for i, family in enumerate(dict.fromkeys(c.family for c in curves))}
    curves.sort(key=lambda c: (order[c.family], c.setting not in main))
    title = headline(found)
    return draw_curves(curves, look, title, columns=columns)
