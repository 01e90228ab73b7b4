"""Standard errors against the bootstrap of the harness's own aggregations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from lm_eval.api.metrics import bits_per_byte, mean, median, perplexity, weighted_perplexity

from evaluation.tasks.standard_error import item_scores, standard_error

N = 400


def pairs() -> list[tuple[float, int]]:
    generator = np.random.default_rng(0)
    sizes = generator.integers(20, 200, N)
    nats = -sizes * generator.gamma(20, 0.03, N)  # long texts weigh more
    return list(zip(nats.tolist(), sizes.tolist(), strict=True))


@pytest.mark.parametrize("aggregation", [mean, perplexity, bits_per_byte, weighted_perplexity])
def test_equals_the_spread_over_resampled_items(aggregation):
    scores = pairs()
    if aggregation in (mean, perplexity):
        scores = [nats / size for nats, size in scores]
    generator = np.random.default_rng(1)
    drawn = generator.integers(N, size=(1000, N))
    values = [aggregation([scores[i] for i in row]) for row in drawn]
    found = standard_error(scores, aggregation, aggregation(scores))
    assert found == pytest.approx(np.std(values), rel=0.1)


def test_one_item_and_odd_aggregations_have_none():
    assert standard_error([0.5], mean, 0.5) is None
    assert standard_error([1.0, 2.0, 3.0], median, 2.0) is None


def test_a_diverged_model_has_no_number():
    assert math.isnan(standard_error([math.nan, 1.0], mean, math.nan) or 0.0)
    assert math.isnan(standard_error([(-math.inf, 3), (-1.0, 2)], bits_per_byte, math.inf) or 0.0)


def test_items_are_scores_or_bits_per_byte():
    np.testing.assert_allclose(item_scores([0.0, 1.0], mean), [0, 1])
    bits = item_scores([(-math.log(2) * 8, 4), (-math.log(2), 2)], bits_per_byte)
    np.testing.assert_allclose(bits, [2, 0.5])
    assert bits.dtype == np.float32
    assert item_scores([(-1.0, 2)], weighted_perplexity) is None
