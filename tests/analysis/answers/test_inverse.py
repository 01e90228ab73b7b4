import numpy as np
import pandas as pd
import pytest

from analysis.answers.inverse import pareto_front, smallest_budget
from analysis.answers.latency import LATENCY, latency_task
from analysis.answers.memory import Serving, cache_bits_per_token, choices_for_memory
from analysis.answers.optimal import optimal
from analysis.curves.scaling import scaling_curves


@pytest.mark.parametrize(("metric", "target"), [("cross_entropy", 3.8), ("zero_shot", 0.5)])
def test_the_budget_found_gives_the_target_and_less_does_not(
    results: pd.DataFrame, metric: str, target: float
) -> None:
    results = results[results["scope"] == "linear"]  # the other reaches 3.8 without a rival
    table = smallest_budget(results, target, metric=metric)
    assert table["reached"].all() and set(table["family"]) == {"sotu-neox", "sotu-opt"}
    for row in table.itertuples():
        at = optimal(results, row.budget_bits, row.family, metric)[0]
        assert at.setting is not None and at.setting.label == row.setting
        assert at.value == pytest.approx(target)
        less = optimal(results, 0.97 * row.budget_bits, row.family, metric)[0]
        assert less.value > target if metric == "cross_entropy" else less.value < target
        assert row.runner_up_bits >= row.budget_bits


def test_a_target_met_by_the_smallest_model_and_one_out_of_reach(results: pd.DataFrame) -> None:
    easy = smallest_budget(results, 6.0, "sotu-opt", "cross_entropy").iloc[0]
    smallest = results.loc[results["family"] == "sotu-opt", "total_bits"].min()
    assert easy["budget_bits"] == smallest and pd.isna(easy["model_above"])
    never = smallest_budget(results, 1.0, "sotu-opt", "cross_entropy").iloc[0]
    assert not never["reached"] and np.isfinite(never["best_value"])
    with pytest.raises(ValueError, match="'gpt'"):
        smallest_budget(results, 1.0, "gpt")


@pytest.mark.parametrize(
    ("metric", "target", "said"),
    [
        ("zero_shot", 2.0, "2 to reach: mean zero-shot accuracy is a fraction, 1 at most"),
        ("zero_shot", 62.0, "62 to reach: mean zero-shot accuracy is a fraction, 1 at most"),
        ("perplexity", 0.5, "0.5 to reach: perplexity is 1 at least"),
        ("cross_entropy", -1.0, "-1 to reach: cross-entropy is 0 at least"),
    ],
)
def test_what_nothing_can_reach_is_no_question(
    results: pd.DataFrame, metric: str, target: float, said: str
) -> None:
    with pytest.raises(ValueError, match=f"^{said}$"):
        smallest_budget(results, target, metric=metric)
    possible = {"zero_shot": 1.0, "perplexity": 1.0, "cross_entropy": 0.0}[metric]
    assert not smallest_budget(results, possible, metric=metric)["reached"].any()


def test_a_target_is_not_reached_inside_a_gap(results: pd.DataFrame) -> None:
    keep = results[(results["bits"] == 4) & (results["scope"] == "linear")].copy()
    keep = keep[keep["family"] == "sotu-opt"]
    curve = scaling_curves(keep, "cross_entropy")[0]
    target = (curve.value[2] + curve.value[3]) / 2
    row = smallest_budget(keep, target, metric="cross_entropy").iloc[0]
    assert row["model_at_or_below"] == curve.models[2] and row["model_above"] == curve.models[3]
    keep.loc[keep["model"] == curve.models[3], "value"] = np.nan
    after = smallest_budget(keep, target, metric="cross_entropy").iloc[0]
    assert after["budget_bits"] == curve.bits[4] and after["model_at_or_below"] == curve.models[4]


def test_pareto_front_is_what_nothing_dominates(results: pd.DataFrame) -> None:
    front = pareto_front(results, metric="cross_entropy")
    rows = results[results["metric"] == "cross_entropy"]
    for row in rows.itertuples():
        smaller = rows[rows["total_bits"] <= row.total_bits]
        strictly = smaller[smaller["total_bits"] < row.total_bits]
        on_front = row.value <= smaller["value"].min() and row.value < strictly["value"].min()
        listed = ((front["model"] == row.model) & (front["size_bits"] == row.total_bits)).any()
        assert listed == (on_front or (strictly.empty and row.value == smaller["value"].min()))
    assert (np.diff(front["value"]) < 0).all() and (np.diff(front["size_bits"]) > 0).all()
    assert pareto_front(results, "sotu-opt")["family"].unique().tolist() == ["sotu-opt"]


def test_context_takes_memory(results: pd.DataFrame) -> None:
    cache = {model: 2 * 4 * 128 * 16 for model in results["model"].unique()}
    memory = 6e6
    without = choices_for_memory(results, memory, {}, family="sotu-neox", metric="cross_entropy")
    within = choices_for_memory(
        results, memory, cache, Serving(256), family="sotu-neox", metric="cross_entropy"
    )
    assert len(within) < len(without)
    assert (within["needed"] == within["weights"] + 256 * 2 * 4 * 128 * 16).all()
    assert (within["needed"] <= memory).all() and (np.diff(without["value"]) >= 0).all()
    twice = choices_for_memory(results, 1e9, cache, Serving(256, 2))
    assert (twice["cache"] == 2 * 256 * 2 * 4 * 128 * 16).all()
    assert (twice["kv_bits_per_token"] == 2 * 4 * 128 * 16).all()
    rounded = choices_for_memory(results.assign(kv="token 8"), 1e9, cache)
    assert (rounded["kv_bits_per_token"] == 2 * 4 * 128 * 8).all() and (rounded["cache"] == 0).all()
    assert without["kv_bits_per_token"].isna().all()  # unknown is unknown
    assert choices_for_memory(results, memory, {}, Serving(256)).empty
    with pytest.raises(ValueError, match="positive"):
        choices_for_memory(results, 0, {})


def test_latency_is_shown_where_it_was_measured(results: pd.DataFrame) -> None:
    one = results[results["experiment_id"] == "sotu-opt-64x2-4-linear"].iloc[:1]
    timed = one.assign(task=latency_task(1), metric=LATENCY, value=1.25)
    table = choices_for_memory(pd.concat([results, timed], ignore_index=True), 1e9, {})
    known = table[table[LATENCY].notna()]
    assert known["model"].tolist() == ["sotu-opt-64x2"] and known[LATENCY].tolist() == [1.25]


@pytest.mark.parametrize(
    ("config", "bits"),
    [
        ({"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_size": 768}, 2 * 12 * 768),
        ({"n_layer": 12, "n_head": 12, "n_embd": 768}, 2 * 12 * 768),
        (
            {
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "hidden_size": 4096,
                "num_key_value_heads": 8,
            },
            2 * 32 * 1024,
        ),
    ],
)
def test_cache_of_a_token(config: dict, bits: int) -> None:
    assert cache_bits_per_token(config) == 16 * bits
    assert cache_bits_per_token({"hidden_size": 5}) is None
