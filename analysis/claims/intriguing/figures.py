"""Figures 2 and 3 on a training study: damage by variant, and over steps, a row a size."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.claims.intriguing.growth import ON_THE_WAY
from analysis.claims.intriguing.runs import DOSES, Ladder, Model, read_ladder
from analysis.claims.intriguing.seeds import t_interval
from analysis.claims.paper import Study
from analysis.figures.style import LEGEND, level_colour, template

SHOWN = tuple(dose for dose in DOSES if dose in ("W4", "A4", "W3", "W4 tensor"))


def by_variant(study: Study) -> go.Figure:
    """What doses add to the loss at the end, a marker a variant: mean and interval over seeds."""
    ladder = _there(study)
    figure = _by_size(ladder, "Damage by variant", ["what quantization adds"], 60, 22)
    unseen: dict[str, list[str]] = {}
    for row, size in enumerate(ladder.sizes, start=1):
        for i, dose in enumerate(SHOWN):
            names, means, halves = [], [], []
            for variant in ladder.variants:
                points = [ladder.final(Model(size, variant, seed), dose) for seed in ladder.seeds]
                added = np.array([point.added for point in points if point is not None])
                if not len(added):
                    continue
                if added.mean() <= 0:  # has no place on a logarithmic axis
                    unseen.setdefault(f"{size} {variant}", []).append(f"{dose} {added.mean():.4f}")
                    continue
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
                legendgroup=dose,
                showlegend=row == 1,
                marker={"color": level_colour(i), "size": 8},
                row=row,
                col=1,
            )
    figure.update_xaxes(type="log")
    told = "; ".join(f"{model} {', '.join(doses)}" for model, doses in unseen.items())
    title = "Nats a token, 90 % over seeds"
    figure.update_xaxes(
        title=f"{title}<br>not above 0, not drawn: {told}" if told else title,
        row=len(ladder.sizes),
    )
    figure.update_yaxes(
        autorange="reversed", categoryorder="array", categoryarray=ladder.variants, dtick=1
    )
    return figure


def over_steps(study: Study) -> go.Figure:
    """What doses add to the loss over training, a line a variant: means over seeds."""
    ladder = _there(study)
    doses = [dose for dose in ON_THE_WAY if dose != "A8 static"]
    figure = _by_size(ladder, "Damage over training", doses, 420, 0)
    for row, size in enumerate(ladder.sizes, start=1):
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
                    showlegend=row == column == 1,
                    line={"color": level_colour(i), "dash": ("solid", "dash", "dot")[i // 8 % 3]},
                    row=row,
                    col=column,
                )
    figure.update_xaxes(title="Steps", row=len(ladder.sizes))
    figure.update_yaxes(title="Added (nats/token)", col=1)
    return figure


def panels(title: str, names: Sequence[Sequence[str]], height: int, between: float) -> go.Figure:
    """Panels by row and column, each with its name; height in pixels, between: of a row, as a share
    of all rows."""
    figure = make_subplots(
        len(names),
        len(names[0]),
        subplot_titles=[name for row in names for name in row],
        horizontal_spacing=0.09,
        vertical_spacing=between / len(names),
    )
    return figure.update_layout(template=template(), title=title, legend=LEGEND, height=height)


def _by_size(ladder: Ladder, title: str, columns: list[str], row: int, variant: int) -> go.Figure:
    """A row of panels a size; heights in pixels, of a row and of each variant in it."""
    names = [[f"{size}: {name}" for name in columns] for size in ladder.sizes]
    return panels(title, names, 200 + len(names) * (row + variant * len(ladder.variants)), 0.16)


def _there(study: Study) -> Ladder:
    ladder = read_ladder(study)
    if not ladder.points:
        raise ValueError("no run of a training study has been scored")
    return ladder
