"""The names, units and roundings of metrics and axes that people read."""

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from analysis.curves.metrics import JOINED
from evaluation.tasks.sets import TASK_SETS

METRIC_NAMES = {
    "zero_shot": "mean zero-shot accuracy",
    "cross_entropy": "cross-entropy",
    "perplexity": "perplexity",
}
AXIS_NAMES = {
    "total": "total bits of the model (all parameters; what is not quantized counts 16 bits)",
    "quantized": "bits of the quantized matrices alone",
    "nominal": "nominal bits (parameters × bits per parameter)",
}

UNITS = {"zero_shot": "%", "cross_entropy": "nats", "perplexity": ""}
_SCALE_DIGITS = {"zero_shot": (100.0, 2), "cross_entropy": (1.0, 4), "perplexity": (1.0, 3)}


def format_value(metric: str, value: float, stderr: float | None = None, unit: bool = True) -> str:
    """A value, "± one standard error" where there is one, and the metric's unit if asked."""
    if not np.isfinite(value):
        return "diverged"
    scale, digits = _SCALE_DIGITS[metric]
    error = "" if stderr is None or np.isnan(stderr) else f" ± {scale * stderr:.{digits}f}"
    return f"{scale * value:.{digits}f}{error} {UNITS[metric] if unit else ''}".rstrip()


def name_blocks(block_size: float | None, by_row: bool) -> str:
    """What shares a constant, in words: "blocks of 64", "groups of 64", a row, a tensor."""
    if pd.isna(block_size):
        return "one constant a row" if by_row else "one block a tensor"
    return f"{'groups' if by_row else 'blocks'} of {block_size:g}"


def in_unit(metric: str, name: str) -> str:
    """A column's heading with the unit its cells leave out: "Lead (nats)"."""
    return f"{name} ({UNITS[metric]})" if UNITS[metric] else name


def name_metric(metric: str, tasks: Collection[str] = ()) -> str:
    """A curve metric as people call it; an accuracy that is of no named set says of which tasks."""
    if metric != "zero_shot" or len(tasks) != 1 or (task := next(iter(tasks))) in TASK_SETS:
        return METRIC_NAMES[metric]
    parts = task.split(JOINED)
    return f"{'mean accuracy' if len(parts) > 1 else 'accuracy'} on {listed(parts)}"


def listed(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)
