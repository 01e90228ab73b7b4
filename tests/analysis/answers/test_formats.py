"""W4A16, W8A8 or W4A8 at equal bits, and percent degradation, on rows whose answers are known."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest

from analysis.answers.contest import competitors
from analysis.answers.degradation import degradations
from analysis.answers.formats import format_name, format_shares, formats_at
from quantizers.setting import Setting
from tests.analysis.claims.made import made_study

LOSS = "cross_entropy"
W4A16 = Setting.make(4, "int", block_size="row")
W8A8 = Setting.make(8, "int", block_size="row", activations={"token": 8})
W4A8 = Setting.make(4, "int", block_size="row", activations={"token": 8})


def test_formats_have_names() -> None:
    mixed = Setting.make(4, "int", block_size=64, attention_bits=8, kv={"token": 8})
    given = (Setting.make(16), W4A16, W8A8, W4A8, mixed)
    names = ["W16A16", "W4A16", "W8A8", "W4A8", "W4/8A16KV8"]
    assert [format_name(setting) for setting in given] == names


def test_the_better_recipe_stands_for_its_format() -> None:
    folded = Setting.make(
        4, "int", block_size="row", activations={"token": 8}, folding={"logarithmic": 1.0},
        calibration="sotu 8x8 #0",
    )  # fmt: skip
    study = made_study({W4A16: 0.01, W4A8: 0.5, folded: 0.02, W8A8: 0.3}, families=["opt"])
    (curves,) = competitors(study.results, LOSS, "total").values()
    budget = float(study.results.loc[study.results["bits"] == 4, "total_bits"].max())
    table = formats_at(curves, [budget], study.scores)
    assert list(table["format"])[:2] == ["W4A16", "W4A8"]
    second = table.iloc[1]
    assert second["setting"] == folded.label and second["recipe"] == ""
    assert table.iloc[0]["recipe"] == "columnwise-w4"
    assert second["paired"] and second["clearly_behind"]
    assert second["behind"] == pytest.approx(0.01, abs=1e-9)
    shares = format_shares(study.results, LOSS, scores=study.scores).set_index("format")
    assert shares.loc["W4A16", "share"] == shares["share"].max() > 0.5
    assert shares.loc["W4A8", "clearly_behind"] == 1
    assert shares.loc["W4A8", "usual"] == folded.label and shares.loc["W4A8", "recipe"] == ""
    assert shares.loc["W8A8", "recipe"] == "vectorwise-w8a8"


def test_formats_that_cannot_be_told_apart_are_not_clear() -> None:
    study = made_study({W4A16: 0.01, W4A8: 0.0101}, error=0.05, families=["opt"])
    shares = format_shares(study.results, LOSS, scores=study.scores).set_index("format")
    assert (shares.loc[["W4A16", "W4A8"], "clearly_behind"] == 0).all()


def test_a_tie_is_shared_not_counted_twice() -> None:
    study = made_study({W4A16: 0.01, W4A8: 0.01, W8A8: 0.5}, families=["opt"])
    shares = format_shares(study.results, LOSS, scores=study.scores).set_index("format")
    assert shares["share"].sum() == pytest.approx(1)
    won = shares["share"]
    assert won["W4A16"] == pytest.approx(won["W4A8"]) and won["W4A16"] > 0.3
    assert (shares["n_budgets"] > 1).all() and (shares["low_bits"] < shares["high_bits"]).all()


def test_weights_alone_leave_nothing_to_compare() -> None:
    study = made_study({W4A16: 0.01})
    assert format_shares(study.results, LOSS, scores=study.scores).empty


RIGHT = {"lambada_openai": (40, 30), "piqa": (60, 57)}  # of 100 items, before and after


def accuracies() -> tuple[pd.DataFrame, Mapping[tuple[str, str], np.ndarray]]:
    study = made_study({W4A8: 0.1}, families=["opt"])
    rows, items = [], {}
    for row in study.results[study.results["model"] == "opt-32x2"].to_dict("records"):
        for task, right in RIGHT.items():
            n = right[row["bits"] == 4]
            items[row["experiment_id"], task] = (np.arange(100) < n).astype(np.float32)
            cells = {"task": task, "metric": "acc", "value": n / 100, "stderr": 0.05}
            rows.append(row | cells | {"n_items": 100})
    return pd.DataFrame(rows), items


def test_percent_degradation_is_the_mean_of_relative_changes() -> None:
    results, items = accuracies()

    def scores(
        ids: Sequence[str], task: str, metric: str, protocol: str | None = None
    ) -> Mapping[str, np.ndarray]:
        return {i: items[i, task] for i in ids}

    table = degradations(results, None, scores).set_index("task")
    assert table.loc["lambada_openai", "percent"] == pytest.approx(-25)
    assert table.loc["piqa", "percent"] == pytest.approx(-5)
    assert table.loc["mean", "percent"] == pytest.approx(-15)
    assert (table["low"] < table["percent"]).all() and (table["percent"] < table["high"]).all()
    assert (table.loc[["lambada_openai", "mean"], "high"] < 0).all() and table["paired"].all()
    # Ten items of 40 lost: resampling 100 items moves the share by a few percent of itself.
    width = table.loc["lambada_openai", "high"] - table.loc["lambada_openai", "low"]
    assert width == pytest.approx(2 * 1.645 * 100 * np.sqrt(10 * 30 / 40) / 40, rel=0.15)
    alone = degradations(results).set_index("task")
    assert not alone["paired"].any()
    wider = alone["high"] - alone["low"] > table["high"] - table["low"]
    assert wider.all()


def test_a_task_that_16_bit_scores_nothing_on_has_no_percentage() -> None:
    results, _ = accuracies()
    zero = (results["task"] == "piqa") & (results["bits"] == 16)
    table = degradations(results.assign(value=results["value"].where(~zero, 0.0)))
    table = table.set_index("task")
    assert np.isnan(table.loc["piqa", "percent"]) and np.isnan(table.loc["mean", "percent"])
    said = "piqa: too few right at 16 bit (0 of 100 right) to take percent of"
    assert table.loc["piqa", "reason"] == table.loc["mean", "reason"] == said
    assert table.loc["lambada_openai", "reason"] == "" and table.loc["lambada_openai", "high"] > 0


def test_few_right_items_have_an_interval_as_far_as_they_give_one() -> None:
    """A resample in twenty of 3 right items of 100 has none: that alone must not lose them all."""
    results, items = accuracies()

    def percent(right: int) -> pd.Series:
        before = {id_ for id_ in results.loc[results["bits"] == 16, "experiment_id"]}
        own = {
            key: (np.arange(100) < right).astype(np.float32)
            if key[1] == "piqa" and key[0] in before
            else x
            for key, x in items.items()
        }
        there = (results["task"] == "piqa") & (results["bits"] == 16)
        frame = results.assign(value=results["value"].where(~there, right / 100))
        table = degradations(frame, None, lambda ids, task, *_: {i: own[i, task] for i in ids})
        return table.set_index("task").loc["piqa"]

    few, fewer = percent(6), percent(1)
    assert few["reason"] == "" and few["low"] < few["percent"] < few["high"]
    assert few["high"] - few["percent"] > 2 * (few["percent"] - few["low"])  # as ratios are
    assert np.isnan(fewer["low"]) and "1 of 100 right" in fewer["reason"]


def test_unknown_errors_are_the_reason() -> None:
    results, _ = accuracies()
    table = degradations(results.assign(stderr=np.nan, n_items=0)).set_index("task")
    assert table.loc["mean", "reason"].startswith("lambada_openai: errors unknown; piqa: errors")
