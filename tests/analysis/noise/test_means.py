"""What "clear" rests on: intervals that cover with few items, few changes and several tasks.

The coverages are of simulations with a known truth; a longer run of them (20,000 draws a case, 20
to 1,000 items, 1 to 20 % of them changed) found .950 to 1.000 of one task (.944 to 1.000 of the
mean of 2 to 20), where the plain paired error has .18 to 1.00; and of 4, 8 and 30 windows .950 to
.951 where they are normal and .935 to .944 where they are skewed by 1, where 1.96 standard errors
have .854, .911 and .940, and .838, .895 and .935.
"""

import numpy as np
import pytest
from scipy.stats import t as student

from analysis.answers.answer import Optimum
from analysis.answers.contest import contests
from analysis.answers.costs import setting_costs
from analysis.curves.points import curve_points
from analysis.findings.duels import duel, pair_up
from analysis.noise.bootstrap import no_item_scores, own_luck, resampled_means
from analysis.noise.means import covariance_of_means, is_clear, margin, pooled_df
from analysis.noise.paired import mcnemar, paired_difference
from analysis.noise.ratios import mean_interval, ratio_interval
from quantizers.setting import Setting
from tests.analysis.claims.made import made_study

FLOOR = 0.94  # of 95 %: 2,000 draws know a coverage to half a percent


def changed(n: int, gained: int, lost: int) -> np.ndarray:
    """Right or wrong items of two experiments, [2, n]: a third of them right in both."""
    items = np.zeros((2, n))
    items[:, : (n - gained - lost) // 3] = 1
    items[0, n - gained :] = 1
    items[1, n - gained - lost : n - gained] = 1
    return items


def difference_error(items: np.ndarray) -> tuple[float, float]:
    variance, df = covariance_of_means([items]).of_sum(np.array([1.0, -1.0]))
    return float(np.sqrt(variance)), df


def test_one_changed_item_of_twenty_is_no_difference() -> None:
    found = paired_difference(*changed(20, 1, 0))
    assert found.difference == pytest.approx(0.05) and found.p_value == pytest.approx(0.5)
    assert found.low < -0.09 and found.high > 0.19
    assert paired_difference(*changed(20, 0, 1)).high > 0.09


@pytest.mark.parametrize("n", [20, 200, 1000])
def test_an_interval_leaves_out_zero_only_where_the_mid_p_test_rejects(n: int) -> None:
    for discordant in range(1, 20):
        for gained in range(discordant // 2, discordant + 1):
            lost = discordant - gained
            error, df = difference_error(changed(n, gained, lost))
            clear = is_clear((gained - lost) / n, error, df)
            assert df == np.inf and not (clear and mcnemar(gained, lost) >= 0.05), (gained, lost)
            # And the exact test, which errs on the careful side, is no more careful than it.
            if 2 * mcnemar(gained, lost) < 0.05:
                assert clear, (gained, lost)


def test_the_mid_p_value_is_the_exact_one_less_half_of_what_was_seen() -> None:
    assert mcnemar(0, 0) == 1 and mcnemar(1, 0) == pytest.approx(1 - 1 / 2)
    assert mcnemar(5, 0) == mcnemar(0, 5) == pytest.approx(2 / 32 - 1 / 32)
    assert mcnemar(2, 2) == pytest.approx(1 - 6 / 16 / 2)


@pytest.mark.parametrize("n", [20, 50, 200, 1000])
@pytest.mark.parametrize("discordant", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("lean", [0.0, 0.6, 1.0])
def test_intervals_of_right_or_wrong_items_cover(n: int, discordant: float, lean: float) -> None:
    """lean: of the changed items, how many more are gained than lost."""
    truth = lean * discordant
    generator = np.random.default_rng(0)
    draws = generator.multinomial(
        n, [(discordant + truth) / 2, (discordant - truth) / 2, 1 - discordant], 2000
    )
    counts, times = np.unique(draws[:, :2], axis=0, return_counts=True)
    covered = 0
    for (gained, lost), k in zip(counts.tolist(), times.tolist(), strict=True):
        error, df = difference_error(changed(n, gained, lost))
        covered += k * (abs((gained - lost) / n - truth) <= margin(error, df))
    assert covered / len(draws) >= FLOOR


@pytest.mark.parametrize("n", [4, 8, 30])
def test_intervals_of_few_windows_cover(n: int) -> None:
    generator = np.random.default_rng(n)
    covered, plain = [], []
    for _ in range(1500):
        common = generator.normal(3, 2, n)
        first = common + 0.1 + generator.gamma(4, 0.05, n) - 0.2  # as skewed as losses are
        found = paired_difference(first, common)
        assert found.df == pytest.approx(n - 1) and found.test == "t"
        covered.append(found.low <= 0.1 <= found.high)
        plain.append(abs(found.difference - 0.1) <= 1.96 * found.stderr)
    assert 0.93 <= np.mean(covered) <= 0.97
    if n == 4:
        assert np.mean(plain) < 0.9


def test_the_interval_and_the_test_of_windows_agree() -> None:
    generator = np.random.default_rng(3)
    for _ in range(50):
        found = paired_difference(generator.normal(0.8, 1, 4), np.zeros(4))
        assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)
    two_errors = paired_difference([-1.0, 1.0, 5.0, 3.0], np.zeros(4))
    assert two_errors.p_value == pytest.approx(
        2 * student.sf(two_errors.difference / two_errors.stderr, 3)
    )


@pytest.mark.parametrize("sizes", [(20, 20, 20, 20), (20, 1000), (50, 200, 500)])
def test_intervals_over_several_tasks_cover(sizes: tuple[int, ...]) -> None:
    generator = np.random.default_rng(1)
    covered = []
    for _ in range(1000):
        items = []
        for n in sizes:
            gained, lost, _same = generator.multinomial(n, [0.06, 0.02, 0.92])
            items.append(changed(n, gained, lost))
        means = covariance_of_means(items, [1 / len(sizes)] * len(sizes))
        variance, df = means.of_sum(np.array([1.0, -1.0]))
        difference = np.mean([x[0].mean() - x[1].mean() for x in items])
        covered.append(abs(difference - 0.04) <= margin(np.sqrt(variance), df))
    assert np.mean(covered) >= FLOOR


def test_degrees_of_freedom_of_a_sum_are_welch_s() -> None:
    assert pooled_df(2.0, [1.0, 1.0], [3.0, 3.0]) == pytest.approx(6)
    assert pooled_df(1.0, [1.0, 1e-9], [3.0, 100.0]) == pytest.approx(3)
    assert pooled_df(2.0, [1.0, 1.0], [np.inf, np.inf]) == np.inf
    assert pooled_df(2.0, [1.0, 1.0], [3.0, np.inf]) == pytest.approx(12)


def test_unknown_and_absent_errors_are_never_clear() -> None:
    np.testing.assert_array_equal(
        is_clear([1.0, 1.0, 0.0, 1.0], [np.nan, 0.0, 0.0, 0.1]), [False, False, False, True]
    )


def test_replicates_are_as_wide_as_the_intervals() -> None:
    """Quantiles of replicates, for what is no difference of two values, keep the promise too."""
    windows = np.array([[0.1], [0.3], [-0.2], [0.4]], dtype=np.float32)
    drawn = resampled_means("w", windows, 40_000, shares=False)[:, 0]
    error = windows.std(ddof=1) / 2
    for level in (0.9, 0.95):
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        assert high - low == pytest.approx(2 * margin(error, 3, level), rel=0.1)
    items = changed(50, 1, 0).astype(np.float32)
    drawn = resampled_means("t", items.T, 4000, shares=True)
    change = drawn[:, 0] - drawn[:, 1] + (own_luck("a", 4000) - own_luck("b", 4000)) / 50
    assert change.std() == pytest.approx(difference_error(items.astype(float))[0], rel=0.05)


def test_four_windows_at_two_errors_are_not_clear_anywhere() -> None:
    """t = 2.4 of three degrees of freedom is p = .10: said alike of a lead and of a cost."""
    found = paired_difference([0.1, 0.4, 0.0, 0.5], np.zeros(4))
    assert 2 < found.difference / found.stderr < 3.18
    answer = Optimum("f", 1.0, "cross_entropy", "t", "total", 2, 2)
    told = {"lead": found.difference, "lead_stderr": found.stderr}
    assert not Optimum(**{**answer.__dict__, **told, "lead_df": 3.0}).significant
    assert Optimum(**{**answer.__dict__, **told}).significant  # an error that is known


def test_costs_of_few_windows_have_wide_intervals_and_say_so() -> None:
    study = made_study({Setting.make(4, "int", block_size="row"): 0.25}, families=["opt"])
    rows = study.results[study.results["metric"] == "cross_entropy"].assign(n_items=4, stderr=0.08)
    costs = setting_costs(rows, "cross_entropy", scores=no_item_scores)
    assert set(costs["errors"]) == {"independent"} and not costs["clear"].any()
    reach = float(margin(0.08 * np.sqrt(2), 6))
    assert (costs["high"] - costs["difference"]).to_numpy() == pytest.approx(reach)
    assert setting_costs(rows.assign(n_items=400), "cross_entropy")["clear"].all()


def test_ratios_cover_or_are_not_stated() -> None:
    generator = np.random.default_rng(5)
    covered, jointly, absent = [], [], 0
    for _ in range(400):
        values, ends = [], []
        for _task in range(4):
            before = generator.random(60) < 0.25
            after = np.where(before, generator.random(60) < 0.8, generator.random(60) < 0.05)
            items = np.stack([before, after]).astype(float)
            values.append(items[1].mean() / items[0].mean())
            ends.append(ratio_interval(items.mean(axis=1), covariance_of_means([items]).matrix))
            absent += np.isnan(ends[-1][0])
            covered += [] if np.isnan(ends[-1][0]) else [ends[-1][0] <= 0.95 <= ends[-1][1]]
        low, high = mean_interval(values, ends)
        jointly += [] if np.isnan(low) else [low <= 0.95 <= high]
    assert np.mean(covered) >= 0.89 and np.mean(jointly) >= 0.89 and absent < 20
    none_right = changed(60, 1, 0)[::-1]
    none_right[0] = 0
    matrix = covariance_of_means([none_right]).matrix
    assert np.isnan(ratio_interval(none_right.mean(axis=1), matrix)).all()


def test_perplexity_is_paired_wherever_cross_entropy_is() -> None:
    """A cost, a duel and a lead: to first order the loss's, times the perplexity."""
    settings = {Setting.make(bits, "int", block_size="row"): 0.02 * (6 - bits) for bits in (4, 5)}
    study = made_study(settings, error=0.002, families=["opt"])
    loss = study.results
    perplexity = loss.assign(
        metric="perplexity",
        value=np.exp(loss["value"]),
        stderr=loss["stderr"] * np.exp(loss["value"]),
    )
    costs = [
        setting_costs(rows, metric, scores=study.scores).set_index(["model", "setting"])
        for rows, metric in ((loss, "cross_entropy"), (perplexity, "perplexity"))
    ]
    assert (costs[1]["errors"] == "paired").all()
    np.testing.assert_array_equal(costs[0]["clear"], costs[1]["clear"])
    ratio = costs[1]["difference_stderr"] / costs[0]["difference_stderr"] / costs[1]["value"]
    assert ratio.between(0.95, 1.5).all()  # what all items share moves a large difference, too
    alone = setting_costs(perplexity, "perplexity")["difference_stderr"].to_numpy()
    assert (costs[1]["difference_stderr"].to_numpy() < alone / 10).all()
    duels = [
        duel(
            pair_up(points[points["bits"] == 4], points[points["bits"] == 5]), metric, study.scores
        )
        for points, metric in (
            (curve_points(loss, "cross_entropy"), "cross_entropy"),
            (curve_points(perplexity, "perplexity"), "perplexity"),
        )
    ]
    widths = [d.high - d.low for d in duels if d is not None]
    assert 0.9 < widths[1] / widths[0] / perplexity["value"].mean() < 2
    found = [
        next(iter(contests(rows, metric, scores=study.scores).values()))
        for rows, metric in ((loss, "cross_entropy"), (perplexity, "perplexity"))
    ]
    assert found[1].error.paired[found[1].decided].all()
    assert found[1].clear.mean() == pytest.approx(found[0].clear.mean(), abs=0.05)
