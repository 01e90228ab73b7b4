"""Figures 2 and 3 on a training study: damage by variant, and over steps."""

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.claims.intriguing.growth import ON_THE_WAY
from analysis.claims.intriguing.runs import DOSES, Ladder, Model, read_ladder
from analysis.claims.intriguing.seeds import t_interval
from analysis.claims.paper import Study
from analysis.figures.style import LEGEND, level_colour, template

SHOWN = ("W4", "A4", "W3", "W4 tensor")


def by_variant(study: Study) -> go.Figure:
    """What doses add to the loss at the end, a marker a variant: mean and interval over seeds."""
    ladder = _there(study)
    size = ladder.sizes[0]
    figure = go.Figure(layout={"template": template()})
    for i, dose in enumerate(d for d in DOSES if d in SHOWN):
        names, means, halves = [], [], []
        for variant in ladder.variants:
            points = [ladder.final(Model(size, variant, seed), dose) for seed in ladder.seeds]
            added = np.array([point.added for point in points if point is not None])
            if len(added):
                low, high = t_interval(added)
                names.append(variant)
                means.append(added.mean())
                halves.append(0.0 if np.isnan(high) else high - added.mean())
        figure.add_scatter(
            x=means,
            y=names,
            error_x={"type": "data", "array": halves},
            mode="markers",
            name=dose,
            marker={"color": level_colour(i), "size": 8},
        )
    figure.update_xaxes(title="Added by quantization (nats/token), 90 % over seeds", type="log")
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(
        title=f"Damage by variant, {size}", legend=LEGEND, height=120 + 26 * len(ladder.variants)
    )
    return figure


def over_steps(study: Study) -> go.Figure:
    """What doses add to the loss over training, a line a variant: means over seeds."""
    ladder = _there(study)
    size, doses = ladder.sizes[0], [dose for dose in ON_THE_WAY if dose != "A8 static"]
    figure = make_subplots(1, len(doses), subplot_titles=doses, horizontal_spacing=0.09)
    figure.update_layout(template=template(), title=f"Damage over training, {size}", legend=LEGEND)
    for column, dose in enumerate(doses, start=1):
        for i, variant in enumerate(ladder.variants):
            curves = [
                ladder.points.get(Model(size, variant, seed), {}).get(dose, {})
                for seed in ladder.seeds
            ]
            curves = [points for points in curves if len(points) > 1]
            if not curves:
                continue
            steps = sorted(set.intersection(*(set(points) for points in curves)))
            figure.add_scatter(
                x=steps,
                y=[np.mean([points[step].added for points in curves]) for step in steps],
                name=variant,
                legendgroup=variant,
                showlegend=column == 1,
                line={"color": level_colour(i), "dash": ("solid", "dash", "dot")[i // 8 % 3]},
                row=1,
                col=column,
            )
    figure.update_xaxes(title="Steps")
    figure.update_yaxes(title="Added (nats/token)", col=1)
    figure.update_layout(height=620)
    return figure


def _there(study: Study) -> Ladder:
    ladder = read_ladder(study)
    if not ladder.points:
        raise ValueError("no run of a training study has been scored")
    return ladder
