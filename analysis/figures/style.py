"""How every figure looks: one colour and marker per precision, sizes in bytes, a light page."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from analysis.curves.budget import format_bits

# Okabe-Ito: told apart by colour-blind readers. Fixed per precision, in every figure; the markers
# tell the same story in grey print.
_COLOURS: dict[float, str] = {
    1: "#7F3C8D",
    1.58: "#B5179E",
    2.5: "#A05195",
    3.5: "#C9A227",
    4.5: "#3D5A80",
    2: "#CC79A7",
    3: "#E69F00",
    4: "#0072B2",
    5: "#009E73",
    6: "#56B4E9",
    7: "#8A6D1B",
    8: "#D55E00",
    16: "#1A1A1A",
}
_MARKERS: dict[float, str] = {
    1: "star-triangle-down",
    1.58: "star-triangle-up",
    2.5: "hourglass",
    3.5: "bowtie",
    4.5: "star-square",
    2: "triangle-down",
    3: "triangle-up",
    4: "circle",
    5: "square",
    6: "diamond",
    7: "pentagon",
    8: "cross",
    16: "hexagon",
}
# Levels of other factors: from Tol's bright scheme, none of them a precision's own colour.
_LEVEL_COLOURS = [
    "#4477AA",
    "#EE6677",
    "#228833",
    "#CCBB44",
    "#66CCEE",
    "#AA3377",
    "#777777",
    "#332288",
]
_DATA_TYPES = ("int", "float", "dynamic", "quantile")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK, MUTED, GRID = "#1f2430", "#667085", "#e6e8ee"
LEGEND = {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0}
SIZE_TITLES = {
    "total": "Total size of the model (log scale)",
    "quantized": "Size of the quantized matrices (log scale)",
    "nominal": "Nominal size: parameters × bits per parameter (log scale)",
}


def colour(bits: float) -> str:
    """The colour of a precision; 9 to 15 bits and rare fractions share a grey."""
    return _COLOURS.get(bits, "#8C8C8C")


def marker(bits: float) -> str:
    """The plotly marker symbol of a precision."""
    return _MARKERS.get(bits, "star")


def level_place(value: object, levels: Sequence[object]) -> int:
    """Which look a level of a factor has: a data type the same in every figure, others by order."""
    return _DATA_TYPES.index(value) if value in _DATA_TYPES else levels.index(value)


def level_colour(i: int) -> str:
    """The colour of the i-th level of a factor other than precision (one precision a panel)."""
    return _LEVEL_COLOURS[i % len(_LEVEL_COLOURS)]


def level_marker(i: int) -> str:
    """The marker of the i-th level."""
    symbols = [symbol for bits, symbol in _MARKERS.items() if bits == int(bits) > 1]
    return symbols[i % len(symbols)]


def template() -> go.layout.Template:
    """The layout all figures share."""
    axis = {
        "gridcolor": GRID,
        "linecolor": "#b8bec9",
        "ticks": "outside",
        "tickcolor": "#b8bec9",
        "zeroline": False,
        "showline": True,
        "title": {"font": {"size": 13, "color": MUTED}, "standoff": 10},
        "automargin": True,
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": INK},
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {"bgcolor": "white", "font": {"family": FONT, "size": 12}},
            "title": {"x": 0, "xref": "paper", "xanchor": "left", "font": {"size": 17}},
            "annotationdefaults": {"font": {"size": 14, "color": INK}},
        }
    )


def size_axis(low: float, high: float, max_ticks: int = 6) -> dict[str, object]:
    """A log axis over sizes `low` to `high` (bits) with ticks at powers of two bytes."""
    first, last = np.floor(np.log2(low / 8)), np.ceil(np.log2(high / 8))
    step = max(1, int(np.ceil((last - first) / max_ticks)))
    ticks = [8 * 2.0**power for power in np.arange(first, last + 1, step)]
    margin = 0.04 * np.log10(high / low) + 0.02
    return {
        "type": "log",
        "range": [np.log10(low) - margin, np.log10(high) + margin],
        "tickangle": 0,
        "tickmode": "array",
        "tickvals": ticks,
        "ticktext": [format_bits(bits) for bits in ticks],
    }
