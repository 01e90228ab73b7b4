"""Per-item scores: what comes back, old rows, and what an evaluation of the paper takes on disk."""

import zlib

import numpy as np
import pytest

from orchestrator.store.item_scores import pack_scores, unpack_scores


@pytest.mark.parametrize("n", [0, 1, 7, 8, 1000])
def test_right_and_wrong_come_back_exactly(n):
    scores = np.random.default_rng(n).integers(0, 2, n).astype(np.float32)
    back = unpack_scores(pack_scores(scores))
    assert back.dtype == np.float32 and np.array_equal(back, scores)
    assert np.array_equal(unpack_scores(pack_scores(scores.astype(bool))), scores)


def test_other_scores_come_back_to_16_significant_bits():
    generator = np.random.default_rng(0)
    scores = generator.normal(size=4000) * 10.0 ** generator.integers(-30, 30, 4000)
    back = unpack_scores(pack_scores(scores.astype(np.float32)))
    np.testing.assert_allclose(back, scores, rtol=1.6e-5)
    errors = back / scores - 1
    assert abs(errors.mean()) < 4 * errors.std() / len(errors) ** 0.5  # rounded, not cut
    assert back.dtype == np.float32


def test_diverged_scores_come_back():
    payload = np.array([0x7FFFFFFF], dtype="<u4").view("<f4")[0]  # a nan that rounding would wrap
    scores = np.array([np.nan, -np.inf, np.inf, payload, 2.5, -0.0], dtype=np.float32)
    back = unpack_scores(pack_scores(scores))
    np.testing.assert_array_equal(back, scores)


def test_rows_of_before_are_read():
    scores = np.random.default_rng(0).normal(size=100).astype("<f4")
    assert np.array_equal(unpack_scores(zlib.compress(scores.tobytes(), 6)), scores)


def test_an_evaluation_of_the_paper_takes_17_kilobytes():
    """As many items as the four tasks have; log-probabilities spread as real ones do."""
    generator = np.random.default_rng(0)
    right = [(5153, 0.6), (1267, 0.6), (1838, 0.75), (1838, 0.75), (10042, 0.45), (10042, 0.55)]
    metrics = [generator.random(n) < p for n, p in right]
    metrics.append(-generator.gamma(1.0, 3.0, 5153).astype(np.float32))  # LAMBADA's words
    assert sum(len(pack_scores(scores)) for scores in metrics) < 17_000
