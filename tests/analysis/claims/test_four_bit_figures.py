import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

from analysis.claims.four_bit.figures import FIGURES, bits_figure, factor_figure, outlier_figure
from analysis.figures.illustrations import (
    codes_on_weights,
    weights_figure,
)
from analysis.figures.style import colour, level_place
from quantizers.setting import ADDED_COLUMNS
from tests.analysis.rich import rich_results


@pytest.fixture(scope="module")
def rich() -> pd.DataFrame:
    return rich_results()


def names(figure: go.Figure) -> list[str]:
    shown = [t.name for t in figure.data if t.showlegend is not False]
    return [name for name in shown if "off the scale" not in name]


@pytest.mark.parametrize("name", [n for n in FIGURES if "05" not in n])
def test_every_figure_has_titles_units_and_log_bits(rich: pd.DataFrame, name: str) -> None:
    figure = FIGURES[name](rich)
    assert len(names(figure)) >= 2 and figure.layout.title.text
    axes = [a for a in figure.select_xaxes()]
    assert all(axis.type == "log" for axis in axes)
    assert any("size" in (axis.title.text or "") for axis in axes)
    unit = "nats" if "loss" in name else "%"
    assert any(unit in (axis.title.text or "") for axis in figure.select_yaxes())
    lines = [t for t in figure.data if t.mode == "lines+markers"]
    assert all(t.error_y.array is not None for t in lines)


def test_a_missing_comparison_is_said(results: pd.DataFrame) -> None:
    for name in ("figure-05-one-shot", "figure-04-proxy-outliers", "figure-12-exponent-bits"):
        with pytest.raises(ValueError, match="no (family|experiment)"):
            FIGURES[name](results)
    with pytest.raises(ValueError, match="no experiment has cross-entropy"):
        bits_figure(results[results["task"] != "sotu"], "cross_entropy")


def test_families_of_figures_1_2_and_7(rich: pd.DataFrame) -> None:
    renamed = rich.assign(family=rich["family"].replace({"sotu-opt": "bloomz"}))
    panels = {
        kind: [a.text for a in bits_figure(renamed, families=kind).layout.annotations]
        for kind in ("one", "base", "all")
    }
    assert panels == {"one": ["sotu-neox"], "base": ["sotu-neox"], "all": ["sotu-neox", "bloomz"]}


def test_precisions_keep_their_colours(rich: pd.DataFrame) -> None:
    for figure in (bits_figure(rich), outlier_figure(rich)):
        four = next(t for t in figure.data if t.name == "4-bit")
        assert four.line.color == colour(4)
    dashed = next(t for t in outlier_figure(rich).data if "4-bit, 2%" in t.name)
    assert dashed.line.dash == "dash" and dashed.line.color == colour(4)


def test_levels_of_a_factor_and_panels(rich: pd.DataFrame) -> None:
    figure = factor_figure(rich, factor="block_size")
    assert names(figure)[0] == "blocks of 16" and len(names(figure)) == 5
    assert len({t.line.color for t in figure.data[:5]}) == 5
    six = factor_figure(rich, factor="data_type", bits=(6, 7, 8))
    assert [a.text for a in six.layout.annotations][0] == "sotu-neox, 6-bit"
    assert set(names(six)) == {"float", "int", "dynamic", "quantile"}


def test_one_shot_methods_beside_rounding(rich: pd.DataFrame) -> None:
    base = rich[(rich["bits"] == 3) & (rich["scope"] == "linear") & (rich["block_size"] == 64)]
    base = base[base["experiment_id"].str.endswith("linear")]
    one_shot = base.assign(method="gptq", experiment_id=base["experiment_id"] + "-gptq")
    figure = FIGURES["figure-05-one-shot"](pd.concat([rich, one_shot], ignore_index=True))
    assert "3-bit float E2 B64 gptq" in names(figure)


def test_of_many_one_shot_settings_those_that_compare_are_drawn(rich: pd.DataFrame) -> None:
    base = rich[(rich["bits"] == 3) & (rich["scope"] == "linear") & (rich["block_size"] == 64)]
    base = base[base["experiment_id"].str.endswith("linear")]
    own = "sotu 128x256 #0123456789ab"
    many = [
        {}, {"block_size": None}, {"block_size": 32}, {"scales": "clipped"},
        {"gptq_order": False}, {"calibration": "random 128x256 #ba9876543210"},
    ]  # fmt: skip
    rows = [
        base.assign(**({"method": "gptq", "calibration": own} | changes),
                    experiment_id=base["experiment_id"] + f"-{i}")
        for i, changes in enumerate(many)
    ]  # fmt: skip
    with_defaults = rich.assign(**{c: v for c, v in ADDED_COLUMNS.items() if c not in rich})
    figure = FIGURES["figure-05-one-shot"](pd.concat([with_defaults, *rows], ignore_index=True))
    one_shot = {name for name in names(figure) if "gptq" in name}
    assert one_shot == {"3-bit float E2 B64 gptq", "3-bit float E2 per tensor gptq"}


def test_codes_lie_where_the_tables_say() -> None:
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    codes = codes_on_weights(weight, 4)
    kinds = codes.groupby("kind").size()
    assert kinds["error"] == 4 * 8
    integers = codes[(codes["kind"] == "code") & (codes["data_type"] == "int")]["x"]
    np.testing.assert_allclose(integers, np.arange(-7, 8) / 7, rtol=1e-6)
    error = codes[codes["kind"] == "error"].pivot(index="x", columns="data_type", values="y")
    assert (error.loc[16.0] < error.loc[4096.0]).all()
    assert error.loc[64.0, "quantile"] < error.loc[64.0, "int"] < error.loc[64.0, "dynamic"]
    assert error.loc[64.0, "int"] == pytest.approx(np.sqrt(0.01161), rel=0.03)  # of N(0, 1)
    density = codes[codes["kind"] == "density"]
    assert np.trapezoid(density["y"], density["x"]) == pytest.approx(1, abs=0.03)
    assert len(weights_figure(codes).data) == 1 + 2 * 4


def test_a_data_type_looks_the_same_in_every_figure() -> None:
    both, alone = ["float", "int"], ["int"]
    assert level_place("int", both) == level_place("int", alone)
    assert level_place("float", both) == level_place("float", ["float"])
    assert level_place(64, [32, 64]) == 1
