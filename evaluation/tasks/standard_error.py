"""Standard errors of the harness's aggregations, from the scores of the items."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lm_eval.api.metrics import bits_per_byte, mean, perplexity, weighted_perplexity


def standard_error(
    scores: Sequence[Any] | np.ndarray, aggregation: Callable[..., Any], value: float
) -> float | None:
    """The standard error of `value`, the aggregate of at least two items; else None, as for
    aggregations without a closed form.

    Of a mean that of a mean; of a ratio of sums over (nats, bytes or words) its linearization over
    items; of a perplexity that of its logarithm, times the value (delta method).
    """
    n = len(scores)
    if n < 2:
        return None
    with np.errstate(all="ignore"):  # a diverged model's scores
        if aggregation in (mean, perplexity):
            error = float(np.std(scores, ddof=1) / math.sqrt(n))
        elif aggregation in (bits_per_byte, weighted_perplexity):
            nats, weights = np.asarray(scores, dtype=float).T
            residuals = nats - nats.sum() / weights.sum() * weights
            error = float(np.sqrt(n / (n - 1) * (residuals**2).sum()) / weights.sum())
        else:
            return None
        if aggregation is bits_per_byte:
            return error / math.log(2)
        return error if aggregation is mean else error * value


def item_scores(scores: Sequence[Any], aggregation: Callable[..., Any]) -> np.ndarray | None:
    """What is kept of the items, float32 [n]: their scores, or each one's bits per byte; None for
    scores that are no numbers."""
    if aggregation is bits_per_byte:
        nats, weights = np.asarray(scores, dtype=float).T
        return (-nats / weights / math.log(2)).astype(np.float32)
    return np.array(scores, dtype=np.float32) if np.isscalar(scores[0]) else None
