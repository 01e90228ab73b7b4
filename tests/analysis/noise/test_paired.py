"""Paired differences: known cases, honest intervals, and the way from a database to a table."""

from collections.abc import Sequence

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar

from analysis.noise.paired import compare, paired_difference
from evaluation.tasks.sets import TASK_SETS


def correlated(n: int, shift: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    common = generator.normal(3, 2, n)
    return common + shift + generator.normal(0, 0.1, n), common


def test_known_difference_of_right_or_wrong_items() -> None:
    first = np.array([1] * 60 + [0] * 40)
    second = np.array([1] * 45 + [0] * 15 + [1] * 3 + [0] * 37)  # 15 gained, 3 lost
    found = paired_difference(first, second)
    assert found.difference == pytest.approx(0.12) and found.n_items == 100
    # Bonett & Price: one more item gained and one more lost, about the difference that was seen.
    expected = np.sqrt((15 + 3 + 2) - (15 - 3) ** 2 / 102) / 100
    assert found.stderr == pytest.approx(expected) and found.df == np.inf
    table = [[45, 15], [3, 37]]
    assert found.test == "mid-p McNemar"
    exact = mcnemar(table, exact=True).pvalue
    assert exact / 2 < found.p_value < exact
    assert found.low < 0.12 < found.high and found.low > 0
    backwards = paired_difference(second, first)
    assert backwards.difference == -found.difference and backwards.p_value == found.p_value


def test_equal_answers_are_no_difference_as_far_as_their_number_goes() -> None:
    right = np.arange(80) % 2
    found = paired_difference(right, right)
    assert (found.difference, found.p_value) == (0, 1)
    assert found.stderr == pytest.approx(np.sqrt(2) / 80)
    assert found.low == -found.high and 0.03 < found.high < 3.1 / 80  # the rule of three
    assert paired_difference([1] * 80, [0] * 80).high == 1
    losses = paired_difference(right + 0.5, right + 0.5)  # one computation, it seems
    assert losses.difference == 0 and np.isnan([losses.stderr, losses.low, losses.high]).all()


def test_pairing_removes_the_common_luck() -> None:
    first, second = correlated(200, 0.05, seed=1)
    found = paired_difference(first, second)
    apart = np.sqrt(first.var(ddof=1) / 200 + second.var(ddof=1) / 200)
    assert found.stderr < apart / 10
    assert found.test == "t" and found.p_value < 0.01 and found.low > 0


def test_intervals_and_tests_keep_their_promise() -> None:
    """Over many experiments: 95 % intervals cover, and 5 % of true nulls are rejected."""
    covered, rejected, rejected_binary = [], [], []
    generator = np.random.default_rng(0)
    for seed in range(300):
        found = paired_difference(*correlated(80, 0.0, seed), task=f"t{seed}")
        covered.append(found.low <= 0 <= found.high)
        rejected.append(found.p_value < 0.05)
        right = generator.random(80) < 0.6
        changed = generator.random((2, 80)) < 0.15
        found = paired_difference(right ^ changed[0], right ^ changed[1], task=f"t{seed}")
        rejected_binary.append(found.p_value < 0.05)
    assert 0.90 < np.mean(covered) < 0.98
    assert 0.02 < np.mean(rejected) < 0.10
    assert np.mean(rejected_binary) < 0.06  # mid-p: hardly ever more than asked


def test_a_diverged_model_has_no_difference() -> None:
    for bad in (np.nan, np.inf):
        found = paired_difference([bad, 1.0, 2.0], [1.0, 1.0, 1.0])
        assert np.isnan([found.difference, found.stderr, found.low, found.p_value]).all()
    assert np.isnan(paired_difference([np.inf, 1.0], [np.inf, 1.0]).difference)


def test_what_cannot_be_paired_is_named() -> None:
    with pytest.raises(ValueError, match="piqa: 3 and 4 items cannot be paired"):
        paired_difference([1, 2, 3], [1, 2, 3, 4], "piqa")
    with pytest.raises(ValueError, match="1 and 1 items"):
        paired_difference([1], [1])


class Items:
    """Item scores in memory, as `read_item_scores` gives them."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self.sizes = sizes

    def __call__(
        self, ids: Sequence[str], task: str, metric: str, protocol: str | None = None
    ) -> dict[str, np.ndarray]:
        return {i: self.of(i, task) for i in ids if task in self.sizes and "missing" not in i}

    def of(self, experiment: str, task: str) -> np.ndarray:
        luck = np.random.default_rng([len(task), self.sizes[task]]).random(self.sizes[task])
        quality = 0.5 if "-16-" in experiment else 0.3
        return (luck < quality).astype(np.float32)


def test_a_set_is_the_mean_of_its_tasks() -> None:
    sizes = {task: 100 * (i + 1) for i, task in enumerate(TASK_SETS["paper"])}
    found = compare(Items(sizes), "a-4-", "a-16-", "paper", "zero_shot")
    one = [
        compare(Items(sizes), "a-4-", "a-16-", task, metric)
        for task, metric in TASK_SETS["paper"].items()
    ]
    assert found.difference == pytest.approx(np.mean([x.difference for x in one]))
    # The unseen items are of the smallest task alone: of it, all others could not be told apart.
    parts = [x.stderr**2 - 2 / x.n_items**2 for x in one]
    expected = (sum(parts) + 2 / min(sizes.values()) ** 2) / 16
    assert found.stderr == pytest.approx(np.sqrt(expected))
    assert found.test == "t" and found.n_items == 1000


def test_a_group_is_the_mean_of_its_items() -> None:
    sizes = {task: 20 + 13 * i for i, task in enumerate(TASK_SETS["mmlu_other"])}
    scores = Items(sizes)
    found = compare(scores, "a-4-", "a-16-", "mmlu_other", "zero_shot")
    change = np.concatenate([scores.of("a-4-", t) - scores.of("a-16-", t) for t in sizes])
    assert found.difference == pytest.approx(change.mean())
    unseen = 2 / len(change) ** 2  # one more item gained and one more lost
    assert found.stderr**2 == pytest.approx(change.var() / len(change) + unseen, rel=0.02)


def test_missing_items_and_unknown_sets_are_named() -> None:
    scores = Items({"piqa": 10})
    with pytest.raises(ValueError, match="missing-4- has no acc items of piqa"):
        compare(scores, "missing-4-", "a-16-", "piqa", "acc")
    with pytest.raises(ValueError, match="no task set 'papers'; known: paper"):
        compare(scores, "a-4-", "a-16-", "papers", "zero_shot")
