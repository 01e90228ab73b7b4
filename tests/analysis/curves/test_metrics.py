import numpy as np
import pandas as pd
import pytest
from lm_eval.api.metrics import aggregate_subtask_metrics, pooled_sample_stderr

from analysis.curves.metrics import COLUMNS, RUN_COLUMNS
from analysis.curves.points import curve_points, mean_zero_shot
from evaluation.tasks.sets import TASK_SETS
from orchestrator.store.schema import RESULT_COLUMNS

TASKS = TASK_SETS["sotu"]


def test_columns_are_those_of_the_results_view() -> None:
    assert tuple(COLUMNS) == RESULT_COLUMNS[: len(COLUMNS)]
    assert tuple(RUN_COLUMNS) == RESULT_COLUMNS[-len(RUN_COLUMNS) :]


def test_mean_and_its_error(results: pd.DataFrame) -> None:
    means = mean_zero_shot(results).set_index("experiment_id")
    one = results[results["experiment_id"] == "sotu-neox-64x2-4-linear"]
    used = [one[(one["task"] == t) & (one["metric"] == m)].iloc[0] for t, m in TASKS.items()]
    mean = means.loc["sotu-neox-64x2-4-linear"]
    assert mean["value"] == pytest.approx(np.mean([row["value"] for row in used]))
    expected = np.sqrt(sum(row["stderr"] ** 2 for row in used)) / 4
    assert mean["stderr"] == pytest.approx(expected)
    assert mean["n_items"] == 2000
    assert (mean["task"], mean["metric"]) == ("sotu", "zero_shot")


def test_a_group_s_mean_is_over_items_as_in_the_harness(results: pd.DataFrame) -> None:
    tasks = TASK_SETS["mmlu_social_sciences"]
    one = results[(results["task"] == "sotu_blank") & (results["metric"] == "acc")].iloc[[0]]
    generator = np.random.default_rng(0)
    items = [generator.integers(0, 2, size) for size in generator.integers(100, 545, len(tasks))]
    rows = [
        one.assign(task=task, value=x.mean(), stderr=x.std(ddof=1) / len(x) ** 0.5, n_items=len(x))
        for task, x in zip(tasks, items, strict=True)
    ]
    (mean,) = mean_zero_shot(pd.concat(rows)).itertuples()
    values, sizes = [x.mean() for x in items], [len(x) for x in items]
    stderrs = [x.std(ddof=1) / len(x) ** 0.5 for x in items]
    assert mean.task == "mmlu_social_sciences" and mean.n_items == sum(sizes)
    assert mean.value == pytest.approx(aggregate_subtask_metrics(values, sizes, True))
    assert mean.value != pytest.approx(np.mean(values))
    assert mean.stderr == pytest.approx(pooled_sample_stderr(stderrs, sizes), rel=0.01)


def test_the_metric_of_each_task_is_the_set_s(results: pd.DataFrame) -> None:
    other = (results["task"] == "sotu_continuation") & (results["metric"] == "acc")
    before = mean_zero_shot(results)["value"]
    results.loc[other, "value"] = 0.0  # the set takes acc_norm there
    assert mean_zero_shot(results)["value"].equals(before)


def test_an_incomplete_experiment_has_no_mean(results: pd.DataFrame) -> None:
    lost = (results["experiment_id"] == "sotu-opt-32x2-3-linear") & (
        results["task"] == "sotu_blank"
    )
    means = mean_zero_shot(results[~lost])
    assert len(means) == len(mean_zero_shot(results)) - 1
    assert "sotu-opt-32x2-3-linear" not in set(means["experiment_id"])


def test_one_diverged_task_makes_the_mean_diverge(results: pd.DataFrame) -> None:
    bad = (results["experiment_id"] == "sotu-opt-32x2-3-linear") & (results["task"] == "sotu_blank")
    results.loc[bad, "value"] = np.nan
    means = mean_zero_shot(results).set_index("experiment_id")["value"]
    assert np.isnan(means["sotu-opt-32x2-3-linear"])
    assert means.notna().sum() == len(means) - 1


def test_repeated_measurements_prefer_the_protocol_most_have(results: pd.DataFrame) -> None:
    extra = results[results["experiment_id"] == "sotu-neox-32x2-4-linear"].assign(
        n_items=99999, value=0.0
    )
    again = pd.concat([results, extra], ignore_index=True)
    for metric in ("zero_shot", "cross_entropy"):
        before, after = (curve_points(frame, metric) for frame in (results, again))
        pd.testing.assert_frame_equal(before, after, check_dtype=False)


def test_perplexity_of_a_task_is_not_a_corpus(results: pd.DataFrame) -> None:
    task = results[results["metric"] == "perplexity"].assign(task="lambada_openai", value=1.0)
    points = curve_points(pd.concat([results, task], ignore_index=True), "perplexity")
    assert set(points["task"]) == {"sotu"}


def test_the_corpus_that_most_experiments_have(results: pd.DataFrame) -> None:
    corpus = results[(results["metric"] == "cross_entropy") & (results["family"] == "sotu-opt")]
    both = pd.concat([results, corpus.iloc[:5].assign(task="a_corpus")], ignore_index=True)
    assert set(curve_points(both, "cross_entropy")["task"]) == {"sotu"}
    assert len(curve_points(both, "cross_entropy", task="a_corpus")) == 5
    with pytest.raises(ValueError, match="a_corpus, sotu"):
        curve_points(both, "cross_entropy", task="wikitext")


def test_bad_input_is_named(results: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="unknown metric 'accuracy'"):
        curve_points(results, "accuracy")
    with pytest.raises(ValueError, match=r"lack the column\(s\) stderr"):
        curve_points(results.drop(columns="stderr"), "zero_shot")
