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
    assert second["setting"] == folded.label and second["paired"] and second["clear"]
    assert second["behind"] == pytest.approx(0.01, abs=1e-9)
    shares = format_shares(study.results, LOSS, scores=study.scores).set_index("format")
    assert shares.loc["W4A16", "share"] == shares["share"].max() > 0.5
    assert shares.loc["W4A8", "clear"] == 1
    assert shares.loc["W4A8", "usual"] == folded.label


def test_formats_that_cannot_be_told_apart_are_not_clear() -> None:
    study = made_study({W4A16: 0.01, W4A8: 0.0101}, error=0.05, families=["opt"])
    shares = format_shares(study.results, LOSS, scores=study.scores).set_index("format")
    assert (shares.loc[["W4A16", "W4A8"], "clear"] == 0).all()


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
