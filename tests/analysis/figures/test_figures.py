import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from analysis.curves.metrics import PERPLEXITY_CAP
from analysis.documents.scaling_figure import scaling_figure
from analysis.figures.strips import optimal_figure
from analysis.figures.style import colour, marker
from evaluation.tasks.sets import CHANCE, TASK_SETS
from quantizers.setting import Setting


def traces(figure: go.Figure, panel: str = "x") -> dict[str, go.Scatter]:
    return {t.name: t for t in figure.data if (t.xaxis or "x") == panel}


@pytest.mark.parametrize("metric", ["zero_shot", "cross_entropy"])
def test_a_panel_per_family_and_a_curve_per_setting(results: pd.DataFrame, metric: str) -> None:
    figure = scaling_figure(results, metric)
    panels = {panel: traces(figure, panel) for panel in ("x", "x2")}
    for curves in panels.values():
        drawn = [name for name in curves if "off the scale" not in name]
        assert len(drawn) == 8 and "16-bit" in drawn
    assert [a.text for a in figure.layout.annotations] == ["sotu-neox", "sotu-opt"]
    assert sum(bool(t.showlegend) for t in figure.data) == 8  # one legend for both panels
    assert "bit-optimal" in figure.layout.title.text


def test_values_sizes_and_errors_are_those_of_the_results(results: pd.DataFrame) -> None:
    trace = traces(scaling_figure(results, "cross_entropy"))["4-bit float E2 B64"]
    rows = results[(results["family"] == "sotu-neox") & (results["metric"] == "cross_entropy")]
    rows = rows[(rows["bits"] == 4) & (rows["scope"] == "linear")].sort_values("total_bits")
    np.testing.assert_allclose(np.asarray(trace.x, float), rows["total_bits"].to_numpy(float))
    np.testing.assert_allclose(np.asarray(trace.y, float), rows["value"])
    np.testing.assert_allclose(np.asarray(trace.error_y.array, float), rows["stderr"])


def test_log_axis_in_bytes(results: pd.DataFrame) -> None:
    axis = scaling_figure(results).layout.xaxis
    assert axis.type == "log"
    assert "256 KiB" in axis.ticktext and "1 MiB" in axis.ticktext
    tick = dict(zip(axis.ticktext, axis.tickvals, strict=True))
    assert tick["1 MiB"] == 8 * 1024**2
    sizes = results["total_bits"].astype(float)
    assert 10 ** axis.range[0] < sizes.min() and sizes.max() < 10 ** axis.range[1]


def test_a_precision_keeps_its_colour_and_marker_everywhere(results: pd.DataFrame) -> None:
    few = results[results["bits"].isin([4, 8])]
    for frame in (results, few):
        trace = traces(scaling_figure(frame, "cross_entropy"))["8-bit float E4 B64"]
        assert (trace.line.color, trace.marker.symbol) == (colour(8), marker(8))
    looks = [(colour(k), marker(k)) for k in (2, 3, 4, 5, 6, 7, 8, 16)]
    assert len({c for c, _ in looks}) == len({m for _, m in looks}) == 8


def test_other_settings_are_dashed_and_many_wait_in_the_legend(results: pd.DataFrame) -> None:
    dashed = traces(scaling_figure(results))["4-bit float E2 B64 scope all"]
    assert dashed.line.dash == "dash" and dashed.visible is True
    more = [results]
    for block in (32, 128, 256):
        extra = results[(results["bits"] == 4) & (results["scope"] == "linear")]
        names = extra["experiment_id"] + f"-{block}"
        value = extra["value"] * (1.1 if block == 32 else 0.9)  # accuracies
        more.append(extra.assign(block_size=block, experiment_id=names, value=value))
    figure = scaling_figure(pd.concat(more, ignore_index=True))
    assert traces(figure)["4-bit float E2 B128"].visible == "legendonly"
    assert traces(figure)["4-bit float E2 B32"].visible is True  # it wins: drawn, not hidden
    assert traces(figure)["4-bit float E2 B64"].visible is True


def test_a_collapsed_model_does_not_squash_the_panel(results: pd.DataFrame) -> None:
    bad = (results["experiment_id"] == "sotu-neox-128x4-3-linear") & (
        results["metric"] == "cross_entropy"
    )
    results.loc[bad, "value"] = 11.0
    figure = scaling_figure(results, "cross_entropy")
    assert figure.layout.yaxis.range[1] < 6
    mark = traces(figure)["3-bit float E2 B64, off the scale"]
    assert mark.y[0] == figure.layout.yaxis.range[1] and "11.0000" in mark.hovertext[0]
    assert traces(figure)["3-bit float E2 B64"].y[-1] == 11.0  # the line heads for the truth


def test_a_diverged_model_is_a_gap_and_a_cross(results: pd.DataFrame) -> None:
    bad = (results["experiment_id"] == "sotu-neox-64x4-3-linear") & (results["task"] == "sotu")
    results.loc[bad, "value"] = np.nan
    curves = traces(scaling_figure(results, "cross_entropy"))
    line = curves["3-bit float E2 B64"]
    assert np.isnan(line.y[3]) and line.connectgaps is False
    mark = curves["3-bit float E2 B64, off the scale"]
    assert list(mark.marker.symbol) == ["x"] and "diverged" in mark.hovertext[0]


def test_perplexity_is_capped_as_the_paper_plots_it(results: pd.DataFrame) -> None:
    results.loc[(results["bits"] == 2) & (results["metric"] == "perplexity"), "value"] = 1e6
    trace = traces(scaling_figure(results, "perplexity"))["2-bit float E1 B64"]
    assert set(trace.y) == {PERPLEXITY_CAP}


def test_accuracy_is_in_percent_beside_guessing(results: pd.DataFrame) -> None:
    figure = scaling_figure(results)
    assert 20 < traces(figure)["16-bit"].y[0] < 100
    chance = 100 * np.mean([CHANCE[task] for task in TASK_SETS["sotu"]])
    assert [line.y0 for line in figure.layout.shapes] == pytest.approx([chance, chance])


def test_nothing_to_draw_is_said(results: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        scaling_figure(results[results["task"] == "sotu"], "zero_shot")


def test_strips_cover_the_winners(results: pd.DataFrame) -> None:
    figure = optimal_figure(results, ("cross_entropy",))
    legend = [t.name for t in figure.data if t.showlegend is not False]
    assert legend[0] == "4-bit" and len(legend) == len(set(legend))
    runs = [t for t in figure.data if t.showlegend is False]
    assert {t.y[0] for t in runs} == {f"sotu-{f}<br>cross-entropy" for f in ("neox", "opt")}
    four = [t for t in runs if t.name == "4-bit" and t.opacity == 1.0 and t.line.width > 20]
    assert four and four[0].line.color == colour(4)
    assert any("scope all" in (text or "") for t in four for text in t.hovertext)


def test_setting_of_other_precisions_has_a_look() -> None:
    assert Setting("rtn", 11, "int", None, 64, 0.0, False, "linear").label == "11-bit int B64"
    assert colour(11) and marker(11)
