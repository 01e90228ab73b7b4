"""The figures that are not scaling curves: codes on real weights (6) and speed (16)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from analysis.figures.style import (
    INK,
    LEGEND,
    MUTED,
    colour,
    level_colour,
    level_marker,
    level_place,
    marker,
    template,
)
from quantizers.codebooks import codebook, quantile
from quantizers.data_types import DATA_TYPES

BLOCK_SIZES = (16, 32, 64, 128, 256, 512, 1024, 4096)
_MOST_WEIGHTS = 1 << 20  # a sample of a large matrix shows the same


def codes_on_weights(
    weight: torch.Tensor, bits: int = 4, block_sizes: Sequence[int] = BLOCK_SIZES
) -> pd.DataFrame:
    """What each data type and block size does to a real weight tensor (any shape and float type).

    Tidy rows with columns kind, data_type, block_size, x, y. kind "density": histogram (y) of the
    weights over their block's absmax (x), at block size 64; "code": the values of a data type's
    table (x); "error": root mean squared error over the weights' standard deviation (y).
    """
    flat = weight.detach().flatten()[:_MOST_WEIGHTS].float()
    scaled = {block: _scaled(flat, block) for block in {64, *block_sizes}}
    rows: list[tuple[str, str | None, int | None, float, float]] = []
    density, edges = np.histogram(scaled[64][0].numpy(), bins=80, range=(-1, 1), density=True)
    middles = (edges[:-1] + edges[1:]) / 2
    rows += [("density", None, 64, x, y) for x, y in zip(middles, density, strict=True)]
    for data_type in DATA_TYPES:
        for block in block_sizes:
            values, absmax = scaled[block]
            table = quantile(bits, flat) if data_type == "quantile" else codebook(data_type, bits)
            if block == 64 or (64 not in block_sizes and block == block_sizes[0]):
                rows += [("code", data_type, block, x, 0.0) for x in table.tolist()]
            middle = (table[:-1] + table[1:]) / 2
            rounded = table[torch.searchsorted(middle, values)]
            error = ((rounded - values) * absmax).square().mean().sqrt() / flat.std()
            rows.append(("error", data_type, block, float(block), float(error)))
    return pd.DataFrame(rows, columns=["kind", "data_type", "block_size", "x", "y"])


def _scaled(flat: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights over their block's absmax, and that absmax, both [n]; zero blocks stay zero."""
    n = flat.numel()
    padded = torch.nn.functional.pad(flat, (0, -n % block)).view(-1, block)
    absmax = padded.abs().amax(dim=1, keepdim=True).clamp_min(1e-30)
    return (padded / absmax).flatten()[:n], absmax.expand_as(padded).flatten()[:n]


def weights_figure(codes: pd.DataFrame, bits: int = 4, of: str = "") -> go.Figure:
    """The frame of codes_on_weights (figure 6): where codes lie, and the error by block size."""
    figure = make_subplots(
        1,
        2,
        subplot_titles=["Codes under the weights (blocks of 64)", "Error by block size"],
        horizontal_spacing=0.12,
        column_widths=[0.55, 0.45],
    )
    density = codes[codes["kind"] == "density"]
    figure.add_trace(
        go.Scatter(
            x=density["x"],
            y=density["y"],
            fill="tozeroy",
            mode="lines",
            line={"color": MUTED, "width": 1},
            name="weights",
            showlegend=False,
        ),
        row=1,
        col=1,
    )
    step = density["y"].max() / 9
    types = codes.loc[codes["kind"] == "code", "data_type"].unique()
    for data_type in types:
        i = level_place(data_type, list(types))
        own = codes[codes["data_type"] == data_type]
        table, error = own[own["kind"] == "code"], own[own["kind"] == "error"]
        look = {"color": level_colour(i), "symbol": level_marker(i)}
        line = {"color": level_colour(i), "width": 2}
        figure.add_trace(
            go.Scatter(
                x=table["x"],
                y=np.full(len(table), -step * (i + 1)),
                mode="markers",
                name=data_type,
                legendgroup=data_type,
                marker={**look, "size": 8},
            ),
            row=1,
            col=1,
        )
        figure.add_trace(
            go.Scatter(
                x=error["x"],
                y=100 * error["y"],
                mode="lines+markers",
                name=data_type,
                legendgroup=data_type,
                showlegend=False,
                line=line,
                marker={**look, "size": 7},
            ),
            row=1,
            col=2,
        )
    figure.update_xaxes(title_text="Weight / largest of its block", row=1, col=1)
    marks = np.arange(0, density["y"].max(), 0.25)  # below 0 stand the codes, not densities
    figure.update_yaxes(title_text="Density", tickvals=marks, row=1, col=1)
    blocks = sorted(codes.loc[codes["kind"] == "error", "x"].unique())
    figure.update_xaxes(
        type="log",
        tickvals=blocks,
        ticktext=[f"{block:.0f}" for block in blocks],
        title_text="Block size (weights, log scale)",
        row=1,
        col=2,
    )
    figure.update_yaxes(
        title_text="Error (% of the weights' standard deviation)", rangemode="tozero", row=1, col=2
    )
    figure.update_layout(
        template=template(),
        title_text=f"{bits:g}-bit data types on real weights" + (f" ({of})" if of else ""),
        height=560,
        margin={"t": 90, "r": 16, "b": 60, "l": 56},
        legend=LEGEND,
    )
    return figure


def speed_figure(speeds: pd.DataFrame, of: str = "") -> go.Figure:
    """Speed over 16 bit by batch size (figure 16); columns kind, bits, batch, speedup.

    `kind` is "roofline" (lines) or "measured" (markers); both in the precision's colour. Raises
    ValueError where a column or every row is missing.
    """
    missing = [c for c in ("kind", "bits", "batch", "speedup") if c not in speeds]
    if missing or speeds.empty:
        what = f"the column(s) {', '.join(missing)}" if missing else "rows"
        raise ValueError(f"the measured speeds lack {what}")
    figure = go.Figure()
    for (bits, kind), part in speeds.sort_values("batch").groupby(["bits", "kind"], sort=True):
        roofline = kind == "roofline"
        figure.add_trace(
            go.Scatter(
                x=part["batch"],
                y=part["speedup"],
                mode="lines" if roofline else "lines+markers",
                name=f"{bits:g}-bit, {kind}",
                line={
                    "color": colour(bits),
                    "dash": "dash" if roofline else None,
                    "width": 1.3 if roofline else 2,
                },
                marker={"symbol": marker(bits), "size": 8},
            )
        )
    batches = sorted(speeds["batch"].unique())
    figure.add_hline(1, line={"color": INK, "dash": "dot", "width": 1})
    figure.update_layout(
        template=template(),
        title_text="Speed of generation over 16-bit weights" + (f" ({of})" if of else ""),
        height=520,
        margin={"t": 70, "r": 16, "b": 60, "l": 56},
        legend=LEGEND,
        xaxis={
            "type": "log",
            "tickvals": batches,
            "ticktext": [str(b) for b in batches],
            "title_text": "Batch size (sequences, log scale)",
        },
        yaxis={"title_text": "Speedup over 16 bit (times)", "rangemode": "tozero"},
    )
    return figure
