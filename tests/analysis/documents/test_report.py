import re
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from analysis.answers.shares import EVERY_FAMILY, win_shares
from analysis.documents.report import Run, write_report
from analysis.documents.report_formats import format_tables
from tests.analysis.conftest import make_results
from tests.analysis.rich import with_table_2


def written(path: Path) -> str:
    """The page without plotly.js, whose own text names addresses."""
    page = path.read_text(encoding="utf-8")
    assert page.count(get_plotlyjs()) == 1
    return page.replace(get_plotlyjs(), "")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report on a sweep, of which nothing else is known."""
    return written(write_report(make_results(), tmp_path_factory.mktemp("plain") / "r.html"))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report on the same with a failure, facts, an illustration and what `kbit outliers` tells.

    No partial file is left beside it.
    """
    failures = pd.DataFrame([{"model": "sotu-opt-256x8", "error": "<script>no weights</script>"}])
    figure = go.Figure(layout={"title": {"text": "How fast"}, "margin": {"t": 70}, "height": 400})
    run = Run(failures, {"database": "demo.db"}, {"figure-16-speed": figure})
    path = tmp_path_factory.mktemp("full") / "r.html"
    write_report(with_table_2(make_results()), path, run=run)
    assert list(path.parent.iterdir()) == [path]
    return written(path)


def test_the_answer_comes_first(results: pd.DataFrame, full: str) -> None:
    page = full
    for metric in ("zero_shot", "cross_entropy"):
        shares = win_shares(results, metric, by="bits")
        best = shares[shares["family"] == EVERY_FAMILY].iloc[0]
        assert f"{best['bits']}-bit wins {best['share']:.0%} of budgets" in page
    assert page.index("-bit wins") < page.index("<h2>The figures")
    for text in ("Undetermined", "sotu-opt-128x4", "demo.db", "All experiments", "beats the curve"):
        assert text in page
    assert "30,000 windows of text" in page and "30,000 tokens" not in page


def test_activations_are_a_section_where_there_are_any(results: pd.DataFrame) -> None:
    metrics = ["zero_shot", "cross_entropy"]
    assert format_tables(results, metrics, "total") == []
    eight = results[(results["bits"] == 8) & (results["scope"] == "linear")]
    both = eight.assign(activations="token 8", experiment_id=eight["experiment_id"] + "-a8")
    both = pd.concat([results, both.assign(value=0.98 * both["value"])], ignore_index=True)
    section = "".join(format_tables(both, metrics, "total"))
    assert "<td" in section and "W8A8" in section and "Percent degradation" in section


def test_nothing_is_loaded_from_outside(plain: str, full: str) -> None:
    for page in (plain, full):
        assert "http://" not in page and "https://" not in page
        assert not re.search(r"<(link|iframe|img|script[^>]*src)|@import|url\(", page)
        assert "default-src 'none'" in page


def test_failures_cannot_become_markup(full: str) -> None:
    assert "<script>no weights" not in full and "&lt;script&gt;no weights" in full


@pytest.mark.parametrize(
    ("name", "metric"), [("<i>a</i> &amp; b.txt", "cross_entropy"), ("a + b", "acc")]
)
def test_names_with_markup_keep_their_paired_errors(
    results: pd.DataFrame, tmp_path: Path, name: str, metric: str
) -> None:
    alone = results[(results["metric"] == metric) & (results["family"] == "sotu-opt")]
    alone = alone[alone["task"] == alone["task"].iloc[0]].assign(task="plain")
    alone = alone[alone["bits"].isin([16, 4, 3])]  # a lead needs no more
    rng = np.random.default_rng(0)
    luck = rng.normal(0, 0.1, 40)
    value = alone.set_index("experiment_id")["value"]
    items = {id_: (value[id_] + luck + rng.normal(0, 1e-3, 40)) for id_ in value.index}

    def page_of(task: str) -> str:
        def scores(ids, asked, its, protocol=None):
            return {i: items[i] for i in ids} if (asked, its) == (task, metric) else {}

        return written(write_report(alone.assign(task=task), tmp_path / "r.html", scores=scores))

    plain, odd = (re.findall(r"a lead is clear at [^.]*", page_of(t)) for t in ("plain", name))
    assert plain and plain == odd and not any("independent" in words for words in odd)


def test_every_experiment_is_listed(results: pd.DataFrame, plain: str) -> None:
    details = plain[plain.index("All experiments") :]
    assert details.count("<tr>") == 2 + results["experiment_id"].nunique()  # a head per family
    assert "every experiment that was tried has its results" in plain


def test_one_metric_and_one_family_are_enough(results: pd.DataFrame, tmp_path: Path) -> None:
    few = results[(results["task"] == "sotu") & (results["family"] == "sotu-opt")]
    page = written(write_report(few, tmp_path / "r.html", axis="quantized"))
    assert "By cross-entropy" in page and "By mean zero-shot" not in page
    assert "bits of the quantized matrices alone" in page


def test_a_single_precision_is_undetermined(results: pd.DataFrame, tmp_path: Path) -> None:
    alone = results[results["bits"] == 16]
    assert "one precision: nothing to compare it with" in written(
        write_report(alone, tmp_path / "r.html")
    )


def test_what_other_commands_stored_is_shown(plain: str, full: str) -> None:
    assert "How fast" in full and "As figure 16 of the paper." in full
    table = full[full.index("Weight deviation and feature size") :]
    assert "<summary>12 models</summary>" in table and "0.70 ± 0.00" in table
    assert "Weight deviation" not in plain and "As figure 16" not in plain


def test_no_results_is_one_line(results: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no experiment has"):
        write_report(results.iloc[:0], tmp_path / "r.html")
    assert not list(tmp_path.iterdir())
