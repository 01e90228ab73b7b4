import numpy as np
import pandas as pd
import pytest

from analysis.answers.optimal import optimal
from analysis.answers.shares import EVERY_FAMILY, optimal_table, round_budgets, win_shares, winners
from analysis.answers.universal import certain_shares
from analysis.curves.panel import overlap_range
from analysis.curves.scaling import scaling_curves
from analysis.findings.finding import find
from analysis.findings.wording import (
    answer_sentence,
    certainty_sentence,
    headline,
    verdict_sentence,
)
from analysis.noise.bootstrap import no_item_scores


@pytest.fixture
def linear(results: pd.DataFrame) -> pd.DataFrame:
    return results[results["scope"] == "linear"].reset_index(drop=True)


def at(results: pd.DataFrame, family: str, bits: int, budget: float, axis: str) -> float:
    """A curve read by numpy alone, from the rows."""
    rows = results[(results["family"] == family) & (results["bits"] == bits)]
    rows = rows[rows["metric"] == "cross_entropy"].sort_values(f"{axis}_bits")
    log_bits = np.log(rows[f"{axis}_bits"].to_numpy(dtype=float))
    return float(np.interp(np.log(budget), log_bits, rows["value"], left=np.nan, right=np.nan))


@pytest.mark.parametrize("axis", ["total", "quantized", "nominal"])
def test_agrees_with_a_plain_search(linear: pd.DataFrame, axis: str) -> None:
    for budget in (2.6e6, 5e6, 9e6) if axis == "total" else (0.6e6, 1e6, 1.6e6):
        values = {k: at(linear, "sotu-opt", k, budget, axis) for k in (2, 3, 4, 5, 6, 8, 16)}
        ranked = sorted((v, k) for k, v in values.items() if np.isfinite(v))
        (answer,) = optimal(linear, budget, "sotu-opt", "cross_entropy", axis)
        assert answer.setting is not None and answer.runner_up is not None
        assert (answer.setting.bits, answer.runner_up.bits) == (ranked[0][1], ranked[1][1])
        assert answer.value == pytest.approx(ranked[0][0])
        assert answer.lead == pytest.approx(ranked[1][0] - ranked[0][0])
        assert answer.n_compared == len(ranked) and answer.n_settings == 7


def test_a_known_optimum_is_recovered_and_sure(linear: pd.DataFrame) -> None:
    five = linear["bits"] == 5
    linear.loc[five & (linear["metric"] == "cross_entropy"), "value"] -= 0.5
    linear.loc[five & linear["metric"].isin(["acc", "acc_norm"]), "value"] += 0.2
    for metric in ("cross_entropy", "zero_shot"):
        for answer in optimal(linear, 5e6, metric=metric):
            assert answer.setting is not None and answer.setting.bits == 5
            assert answer.significant and answer.lead > 0
            assert answer.lead_stderr > answer.stderr > 0
            assert answer.lead_in_stderr == pytest.approx(answer.lead / answer.lead_stderr)


def test_a_lead_within_its_error_is_not_significant(linear: pd.DataFrame) -> None:
    answer = optimal(linear, 5e6, "sotu-neox", "cross_entropy")[0]
    assert 0 < answer.lead < 2 * answer.lead_stderr and not answer.significant
    assert "not clear" in answer_sentence(answer)
    linear.loc[:, "stderr"] = np.nan
    unknown = optimal(linear, 5e6, "sotu-neox", "cross_entropy")[0]
    assert np.isnan(unknown.lead_in_stderr) and not unknown.significant


def test_neighbouring_models_and_the_best_that_fits(linear: pd.DataFrame) -> None:
    answer = optimal(linear, 5e6, "sotu-neox", "cross_entropy")[0]
    assert answer.at_or_below is not None and answer.above is not None
    assert answer.best_fit is not None
    assert answer.at_or_below.size_bits < 5e6 < answer.above.size_bits
    rows = linear[(linear["family"] == "sotu-neox") & (linear["metric"] == "cross_entropy")]
    fits = rows[rows["total_bits"] <= 5e6].sort_values("value").iloc[0]
    assert answer.best_fit.model == fits["model"]
    assert answer.best_fit.setting.bits == fits["bits"]
    assert answer.best_fit.value == fits["value"]


def test_on_a_point_there_is_no_model_above(linear: pd.DataFrame) -> None:
    linear.loc[(linear["bits"] == 5) & (linear["metric"] == "cross_entropy"), "value"] -= 0.5
    row = linear[linear["experiment_id"] == "sotu-neox-64x4-5-linear"].iloc[0]
    answer = optimal(linear, row["total_bits"], "sotu-neox", "cross_entropy")[0]
    assert answer.at_or_below is not None and answer.above is None
    assert answer.at_or_below.model == "sotu-neox-64x4"
    assert answer.value == pytest.approx(answer.at_or_below.value)


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        (1e5, "below the smallest experiment"),
        (1e9, "above the largest experiment"),
        (1.9e7, "only the 16-bit curve reaches"),
    ],
)
def test_undetermined_outside_the_overlap(linear: pd.DataFrame, budget: float, reason: str) -> None:
    for answer in optimal(linear, budget):
        assert not answer.determined and reason in str(answer.reason)
        assert np.isnan(answer.value) and not answer.significant
        assert "undetermined" in answer_sentence(answer)
    assert (answer.best_fit is None) == (budget == 1e5)


def test_undetermined_beside_diverged_models(linear: pd.DataFrame) -> None:
    keep = linear[linear["bits"].isin([4, 16]) & (linear["family"] == "sotu-opt")].copy()
    assert optimal(keep, 6e6, metric="cross_entropy")[0].determined
    keep.loc[(keep["bits"] == 4) & (keep["model"] == "sotu-opt-128x2"), "value"] = np.inf
    answer = optimal(keep, 6e6, metric="cross_entropy")[0]
    assert not answer.determined and "16-bit" in str(answer.reason)


def test_a_family_without_the_metric_is_undetermined(linear: pd.DataFrame) -> None:
    opt_tasks = (linear["family"] == "sotu-opt") & linear["task"].str.startswith("sotu_")
    neox, opt = optimal(linear[~opt_tasks], 5e6)
    assert neox.determined and not opt.determined and "no zero_shot" in str(opt.reason)


def test_only_one_scope_competes_where_sizes_are_not_comparable(results: pd.DataFrame) -> None:
    total = optimal(results, 3e6, "sotu-neox")[0]
    assert total.setting is not None and total.setting.scope == "all" and total.n_settings == 8
    for axis in ("quantized", "nominal"):
        assert optimal(results, 1e6, "sotu-neox", axis=axis)[0].n_settings == 7


def test_beaten_by_a_smaller_experiment_of_a_curve_that_ends(results: pd.DataFrame) -> None:
    answer = optimal(results, 8e6, "sotu-neox", "cross_entropy")[0]
    assert answer.setting is not None and answer.setting.scope == "linear"
    assert answer.best_fit is not None and answer.best_fit.setting.scope == "all"
    assert answer.beaten_by_smaller
    assert not optimal(results, 3e6, "sotu-neox", "cross_entropy")[0].beaten_by_smaller


def test_bad_questions_get_one_line(results: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="'bloom': there are sotu-neox, sotu-opt"):
        optimal(results, 1e6, "bloom")
    with pytest.raises(ValueError, match="positive"):
        optimal(results, 0)
    with pytest.raises(ValueError, match="'bloom'"):
        optimal_table(results, family="bloom")


def test_table_holds_the_same_answers(results: pd.DataFrame) -> None:
    table = optimal_table(results, metric="cross_entropy")
    assert set(table["family"]) == {"sotu-neox", "sotu-opt"}
    assert table["determined"].any() and not table["determined"].all()
    row = table[table["determined"]].iloc[3]
    again = optimal(results, row["budget_bits"], row["family"], "cross_entropy")[0].as_row()
    assert (row["setting"], row["value"]) == (again["setting"], again["value"])
    asked = optimal_table(results, family="sotu-opt", budgets=[5e6])
    assert asked["budget_bits"].tolist() == [5e6] and asked["family"].tolist() == ["sotu-opt"]


def test_round_budgets_stay_inside() -> None:
    grid = round_budgets(81.3 * 8192, 2.43 * 8 * 1024**2, 12)
    assert grid == sorted(set(grid)) and grid[0] >= 81.3 * 8192 and len(grid) >= 10
    assert grid[-1] <= 2.43 * 8 * 1024**2
    assert 110 * 8192 in grid  # two digits, in KiB


def test_overlap_ends_where_the_second_curve_does(linear: pd.DataFrame) -> None:
    curves = [c for c in scaling_curves(linear) if c.family == "sotu-neox"]
    starts = sorted(c.bits[0] for c in curves)
    ends = sorted(c.bits[-1] for c in curves)
    assert overlap_range(curves) == (starts[1], ends[-2])
    assert overlap_range(curves[:1]) is None


def test_shares_count_winners(linear: pd.DataFrame) -> None:
    table = winners(linear, "cross_entropy")
    shares = win_shares(linear, "cross_entropy", by="bits")
    for family, part in table.groupby("family"):
        counted = part["bits"].value_counts(normalize=True)
        own = shares[shares["family"] == family].set_index("bits")
        np.testing.assert_allclose(own["share"].sort_index(), counted.sort_index())
        assert own["clear_share"].sum() == pytest.approx(part["clear"].mean())
        assert own["complete_share"].sum() == pytest.approx(1.0)
        whole = part[part["complete"]]
        assert own["complete_clear_share"].sum() == pytest.approx(whole["clear"].mean())
        assert own["completeness"].unique() == pytest.approx([len(whole) / len(part)])
    pooled = shares[shares["family"] == EVERY_FAMILY]
    assert pooled["share"].sum() == pytest.approx(1.0)
    assert (np.diff(pooled["share"]) <= 0).all()
    said = headline(find(linear, "cross_entropy"))
    assert said.startswith(f"{pooled['bits'].iloc[0]}-bit is bit-optimal by cross-entropy")
    assert "as if independent" in said


def test_families_weigh_the_same_in_the_pool(linear: pd.DataFrame) -> None:
    # One family loses most of its budgets to a diverged model; its say stays one half.
    keep = linear[linear["bits"].isin([4, 16])].copy()
    opt = keep["family"] == "sotu-opt"
    keep.loc[opt & (keep["bits"] == 16) & keep["model"].str.endswith("64x2"), "value"] = np.nan
    keep.loc[~opt & (keep["bits"] == 16) & (keep["metric"] == "cross_entropy"), "value"] -= 1
    shares = win_shares(keep, "cross_entropy", by="bits")
    sixteen = shares[(shares["family"] == EVERY_FAMILY) & (shares["bits"] == 16)]
    own = shares[(shares["family"] != EVERY_FAMILY) & (shares["bits"] == 16)]
    assert sixteen["share"].item() == pytest.approx(own["share"].sum() / 2)
    counts = shares.groupby("family")["n_budgets"].first()
    assert counts["sotu-opt"] < counts["sotu-neox"]


def test_no_overlap_at_all(linear: pd.DataFrame) -> None:
    alone = linear[linear["bits"] == 4]
    assert winners(alone).empty and win_shares(alone).empty
    assert headline(find(alone)) == (
        "Bit-optimal precision by mean zero-shot accuracy: undetermined, one precision: nothing to "
        "compare it with"
    )


def test_shares_have_intervals_and_the_claim_a_verdict(linear: pd.DataFrame) -> None:
    table, claim = certain_shares(linear, "cross_entropy")
    plain = win_shares(linear, "cross_entropy", by="bits")
    for row in plain.itertuples():
        mine = table[(table["family"] == row.family) & (table["bits"] == row.bits)].iloc[0]
        assert mine["share"] == pytest.approx(row.share)
    assert (table["low"] <= table["share"]).all() and (table["share"] <= table["high"]).all()
    assert table["high"].between(0, 1).all()
    assert (table["undetermined"] < 0.1).all()
    sums = table.groupby("family")["share"].sum()
    np.testing.assert_allclose(sums, 1)
    assert claim is not None and claim.n_families == 2
    assert claim.low <= claim.share <= claim.tied_share


@pytest.mark.parametrize(("gain", "verdict"), [(-0.8, "holds"), (0.8, "fails"), (0.0, "open")])
def test_verdict_on_universal_optimality(linear: pd.DataFrame, gain: float, verdict: str) -> None:
    keep = linear[linear["bits"].isin([4, 5])].copy()
    loss = keep["metric"] == "cross_entropy"
    five = keep["bits"] == 5
    if gain == 0:  # the same curve in the same place: which one wins is luck
        pairs = keep.loc[~five].set_index(["model", "task", "metric"])
        places = pd.MultiIndex.from_frame(keep.loc[five, ["model", "task", "metric"]])
        for column in ("value", "total_bits"):
            keep.loc[five, column] = pairs[column].reindex(places).to_numpy()
    keep.loc[loss & ~five, "value"] += gain
    _, claim = certain_shares(keep, "cross_entropy")
    assert claim is not None and claim.verdict == verdict
    assert f"it wins {claim.share:.0%}" in verdict_sentence(claim, "cross-entropy")


def test_a_precision_is_judged_only_where_it_reaches(linear: pd.DataFrame) -> None:
    """4 bit loses nothing, less is ruined, more gains nothing: it is universally optimal."""
    ideal = linear.copy()
    loss = ideal["metric"] == "cross_entropy"
    full = ideal[loss & (ideal["bits"] == 16)].set_index("model")["value"]
    value = ideal["model"].map(full) + np.where(ideal["bits"] < 4, 1.0, 0.0)
    ideal = ideal.assign(value=ideal["value"].where(~loss, value), stderr=1e-6)
    for axis in ("total", "quantized", "nominal"):
        table, claim = certain_shares(ideal, "cross_entropy", axis)
        assert claim is not None and claim.verdict == "holds" and claim.share == 1
        everywhere = table[(table["family"] == EVERY_FAMILY) & (table["bits"] == 4)]
        assert everywhere["share"].item() == pytest.approx(claim.coverage)
        assert 0.3 < claim.coverage < 0.95


def test_settings_of_one_precision_are_no_contest(linear: pd.DataFrame) -> None:
    """Two data types of one size compete in one family, precisions in the other."""
    four = linear[(linear["bits"] == 4) & (linear["family"] == "sotu-neox")]
    other = four.assign(experiment_id=four["experiment_id"] + "-int", data_type="int")
    other = other.assign(value=other["value"] + 0.01, exponent_bits=None)
    opt = linear[(linear["family"] == "sotu-opt") & linear["bits"].isin([4, 5])]
    table, claim = certain_shares(pd.concat([four, other, opt]), "cross_entropy")
    assert set(table["family"]) == {"sotu-opt", EVERY_FAMILY}
    assert claim is not None and claim.n_families == 1
    assert certain_shares(pd.concat([four, other]), "cross_entropy")[1] is None


def test_families_weigh_alike_in_shares_and_verdicts(linear: pd.DataFrame) -> None:
    small = ["sotu-opt-32x2", "sotu-opt-32x4", "sotu-opt-64x2"]  # alone they span little
    few = linear[(linear["family"] == "sotu-neox") | linear["model"].isin(small)]
    table, _ = certain_shares(few, "cross_entropy", "nominal")
    shares = table[table["bits"] == 4].set_index("family")["share"]
    mean = (shares["sotu-neox"] + shares["sotu-opt"]) / 2
    assert shares[EVERY_FAMILY] == pytest.approx(mean)
    plain = win_shares(few, "cross_entropy", "nominal", by="bits")
    pooled = plain[(plain["family"] == EVERY_FAMILY) & (plain["bits"] == 4)]["share"]
    assert pooled.item() == pytest.approx(mean)


def test_replicates_that_decide_nothing_are_not_zero(linear: pd.DataFrame) -> None:
    """Two models: without one of them no curves overlap, which says nothing of who wins."""
    two = linear[linear["model"].isin(["sotu-neox-32x4", "sotu-neox-64x4"])]
    two = two[two["bits"].isin([4, 5])].copy()
    loss = two["metric"] == "cross_entropy"
    two.loc[loss & (two["bits"] == 5), "value"] += 1.0
    table, claim = certain_shares(two, "cross_entropy")
    row = table[(table["family"] == "sotu-neox") & (table["bits"] == 4)].iloc[0]
    assert row["low_models"] == row["high_models"] == row["share"] == 1
    assert 0.3 < row["undetermined"] < 0.7  # half of the replicates draw one model twice
    assert claim is not None and (claim.low_models, claim.undetermined) == (
        1,
        row["undetermined"],
    )


def test_no_verdict_without_rivals(linear: pd.DataFrame) -> None:
    table, claim = certain_shares(linear[linear["bits"] == 4])
    assert table.empty and claim is None
    table, claim = certain_shares(linear[linear["bits"].isin([3, 5])])
    assert len(table) and claim is None


def test_certainty_in_words(linear: pd.DataFrame) -> None:
    sure = optimal(linear, 5e6, "sotu-neox", "cross_entropy", scores=no_item_scores)[0]
    text = certainty_sentence(sure)
    assert "Probability of being optimal" in text and "90% intervals" in text
    assert certainty_sentence(optimal(linear, 5e6, "sotu-neox")[0]) == ""


@pytest.mark.parametrize(("windows", "known"), [(1, (False, False)), (2, (True, False)),
                                                (40, (True, True))])  # fmt: skip
def test_few_windows_give_no_error_or_no_probability(
    linear: pd.DataFrame, windows: int, known: tuple[bool, bool]
) -> None:
    few = linear.assign(n_items=windows)
    answer = optimal(few, 5e6, "sotu-opt", "cross_entropy", scores=no_item_scores)[0]
    assert (bool(np.isfinite(answer.lead_stderr)), answer.certainty is not None) == known


def test_accuracies_lie_between_none_and_all(linear: pd.DataFrame) -> None:
    linear["value"] = linear["value"].mask(linear["metric"] != "cross_entropy", 0.999)
    for answer in optimal(linear, 5e6, metric="zero_shot", scores=no_item_scores):
        assert answer.certainty is not None
        for spread in (answer.certainty.items, answer.certainty.models):
            assert 0.9 < spread.value[0] <= spread.value[1] <= 1
            assert -1 <= spread.lead[0] <= spread.lead[1] <= 1
