"""One protocol a curve, any task, losses by any name: which rows make which points."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from analysis.answers.contest import contests
from analysis.answers.optimal import optimal
from analysis.curves.metrics import chance_level
from analysis.curves.names import name_metric
from analysis.curves.points import curve_points
from analysis.curves.protocols import left_out_sentences
from analysis.curves.rows import metric_rows
from analysis.curves.scaling import scaling_curves
from analysis.documents.report import write_report
from analysis.findings.finding import find
from analysis.findings.wording import headline
from analysis.noise.bootstrap import no_item_scores
from tests.analysis.conftest import make_results


def at_two_contexts(results: pd.DataFrame) -> pd.DataFrame:
    """One model's losses were measured at context 2048, and come out better for it."""
    long = (results["model"] == "sotu-neox-64x4") & (results["task"] == "sotu")
    return results.assign(
        protocol=np.where(long, "long", "short"),
        context=np.where(long, 2048, 256),
        value=results["value"] - 0.4 * (long & (results["metric"] == "cross_entropy")),
    )


# Case 23: two protocols are never joined, and that is said.
def test_rows_of_another_protocol_are_left_out_and_said(results: pd.DataFrame, tmp_path) -> None:
    mixed = at_two_contexts(results)
    curves = [c for c in scaling_curves(mixed, "cross_entropy") if c.family == "sotu-neox"]
    assert all("sotu-neox-64x4" not in c.models and len(c.models) == 5 for c in curves)
    assert all(part.protocol == "short" for c in curves for part in c.parts)
    zero_shot = [c for c in scaling_curves(mixed, "zero_shot") if c.family == "sotu-neox"]
    assert all(len(c.models) == 6 for c in zero_shot)  # their tasks are of one protocol
    (sentence,) = left_out_sentences(metric_rows(mixed, "cross_entropy"))
    assert sentence == (
        "sotu-neox on sotu: 8 experiments of sotu-neox-64x4 left out, measured with context 2,048 "
        "(the others: 256); a curve has one protocol."
    )
    page = write_report(mixed, tmp_path / "r.html").read_text()
    assert "Left out" in page and "context 2,048" in page
    assert left_out_sentences(metric_rows(results, "cross_entropy")) == []


def test_an_experiment_with_both_protocols_is_on_the_curve_once(results: pd.DataFrame) -> None:
    both = pd.concat([results.assign(protocol="short"), at_two_contexts(results)[
        results["model"] == "sotu-neox-64x4"
    ]])  # fmt: skip
    plain, mixed = (scaling_curves(frame, "cross_entropy") for frame in (results, both))
    for before, after in zip(plain, mixed, strict=True):
        np.testing.assert_array_equal(before.value, after.value)
    assert left_out_sentences(metric_rows(both, "cross_entropy")) == []


def test_noise_is_of_the_protocol_of_the_value(results: pd.DataFrame) -> None:
    asked = set()

    def scores(ids: Sequence[str], task: str, metric: str, protocol: str | None = None):
        asked.add((task, metric, protocol))
        return {}

    mixed = at_two_contexts(results)
    optimal(mixed, 5e6, "sotu-neox", "cross_entropy", scores=scores)
    assert asked == {("sotu", "cross_entropy", "short")}
    contests(mixed, "perplexity", scores=scores)
    assert asked == {("sotu", "cross_entropy", "short")}  # a perplexity's items are those


# Case 22: any task counts.
def without_a_set(results: pd.DataFrame) -> pd.DataFrame:
    names = {
        "sotu_last_word": "lambada_openai",
        "sotu_blank": "piqa",
        "sotu_corruption": "winogrande",
    }
    kept = results[results["task"].isin(names)]
    return kept.assign(task=kept["task"].map(names))


def test_the_mean_over_shared_tasks_is_named(results: pd.DataFrame) -> None:
    three = without_a_set(results)
    points = curve_points(three, "zero_shot")
    name = "lambada_openai + piqa + winogrande"
    assert set(points["task"]) == {name} and len(points) == results["experiment_id"].nunique()
    one = three[(three["experiment_id"] == points["experiment_id"].iloc[0])]
    expected = one[one["metric"] == "acc"]["value"].mean()
    assert points["value"].iloc[0] == pytest.approx(expected)
    assert chance_level(name) == pytest.approx(1 / 3)
    assert (
        name_metric("zero_shot", [name]) == "mean accuracy on lambada_openai, piqa and winogrande"
    )
    assert name_metric("zero_shot", [name]) in headline(find(three))
    lost = three[~((three["task"] == "piqa") & (three["model"] == "sotu-opt-32x2"))]
    by_family = curve_points(lost, "zero_shot").groupby("family")["task"].first()
    assert by_family["sotu-opt"] == "lambada_openai + winogrande"


def test_one_task_has_curves_of_its_own(results: pd.DataFrame) -> None:
    for frame in (results, without_a_set(results)):
        task = "sotu_blank" if frame is results else "piqa"
        points = curve_points(frame, "zero_shot", task)
        rows = frame[(frame["task"] == task) & (frame["metric"] == "acc")]
        np.testing.assert_allclose(points["value"], rows["value"])
        assert points["parts"].iloc[0][0][:2] == (task, "acc")
        assert optimal(frame, 5e6, task=task)[0].determined
        assert f"accuracy on {task}" in headline(find(frame, task=task))
    with pytest.raises(ValueError, match="no experiment has zero_shot on 'copa': results have"):
        curve_points(results, "zero_shot", "copa")


def test_the_report_of_one_task(results: pd.DataFrame, tmp_path) -> None:
    page = write_report(results, tmp_path / "r.html", task="sotu_blank").read_text()
    assert "By accuracy on sotu_blank" in page and "By cross-entropy" not in page
    with pytest.raises(ValueError, match="on 'copa'"):
        write_report(results, tmp_path / "r.html", task="copa")


# Case 18: a perplexity is a cross-entropy.
def test_perplexities_alone_are_analysed(results: pd.DataFrame, tmp_path) -> None:
    only = results[results["metric"] == "perplexity"].assign(stderr=np.nan)
    loss = results[results["metric"] == "cross_entropy"]
    points = curve_points(only, "cross_entropy")
    np.testing.assert_allclose(points["value"], loss["value"])
    assert points["stderr"].isna().all()
    back = curve_points(loss, "perplexity")
    np.testing.assert_allclose(back["value"], np.exp(loss["value"]))
    np.testing.assert_allclose(back["stderr"], loss["stderr"] * np.exp(loss["value"]))
    for metric in ("perplexity", "cross_entropy"):
        assert optimal(only, 5e6, metric=metric, scores=no_item_scores)[0].determined
    assert "By cross-entropy" in write_report(only, tmp_path / "r.html").read_text()


def test_families_of_two_sources_stay_apart() -> None:
    ours = make_results(("f",))
    both = pd.concat([ours, ours.assign(source="paper", experiment_id=ours["experiment_id"] + "p")])
    assert set(contests(both, "cross_entropy")) == {"f", "f [paper]"}
