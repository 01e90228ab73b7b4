"""What an evaluation returns: one task or corpus, its protocol, its metrics and per-item scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a sweep file is checked without it
    import numpy as np


@dataclass(frozen=True)
class Metric:
    """One number. `stderr` is None where no standard error is defined (one item, odd metrics).

    `value` may be nan or inf: a diverged model is a result.
    """

    name: str
    value: float
    stderr: float | None
    n_items: int


@dataclass(frozen=True)
class Measurement:
    """All metrics of one task or corpus under one protocol.

    `protocol` is JSON-able and holds whatever the scores depend on besides the model; `items` maps
    a metric's name to its score of every item in order, float32 [n_items], for paired comparisons.
    """

    task: str
    protocol: dict[str, Any]
    metrics: tuple[Metric, ...]
    items: dict[str, np.ndarray] = field(default_factory=dict)

    def metric(self, name: str) -> Metric:
        """The metric called `name`; ValueError if this measurement has none."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        known = ", ".join(m.name for m in self.metrics)
        raise ValueError(f"{self.task} has no metric {name!r}; it has {known}")
