import numpy as np
import pandas as pd
import pytest

from analysis.curves.remembering import remembered
from analysis.curves.scaling import Curve, scaling_curves
from analysis.curves.settings import main_settings, setting_of
from quantizers.setting import Setting

INT4 = Setting("rtn", 4, "int", None, 64, 0.0, False, "linear")


def curve(bits: list[float], value: list[float], stderr: list[float] | None = None) -> Curve:
    return Curve(
        family="f",
        setting=INT4,
        metric="cross_entropy",
        task="sotu",
        axis="total",
        models=tuple(f"m{i}" for i in range(len(bits))),
        n_params=(None,) * len(bits),
        bits=np.array(bits, dtype=float),
        value=np.array(value, dtype=float),
        stderr=np.array(stderr or [0.1] * len(bits)),
    )


def test_interpolation_is_linear_in_log_bits() -> None:
    bits, value = [1e5, 3e5, 2e6, 9e6], [4.0, 3.7, 3.9, 3.2]
    budgets = np.geomspace(1e5, 9e6, 57)
    read, _ = curve(bits, value).at(budgets)
    np.testing.assert_allclose(read, np.interp(np.log(budgets), np.log(bits), value), rtol=1e-12)


def test_error_is_propagated_from_both_ends() -> None:
    _, stderr = curve([100.0, 10000.0], [1.0, 2.0], [0.3, 0.4]).at(np.array([100.0, 1000.0]))
    np.testing.assert_allclose(stderr, [0.3, np.hypot(0.15, 0.2)])


def test_nothing_outside_the_points() -> None:
    read, stderr = curve([100.0, 1000.0], [1.0, 2.0]).at(np.array([99.0, 1001.0, 1000.0, 100.0]))
    np.testing.assert_array_equal(np.isnan(read), [True, True, False, False])
    assert np.isnan(stderr[:2]).all()


def test_a_rounded_end_point_still_counts() -> None:
    ends = np.exp(np.log(np.array([123457.0, 7654321.0])))
    read, _ = curve([123457.0, 7654321.0], [1.0, 2.0]).at(ends * [1 - 1e-12, 1 + 1e-12])
    np.testing.assert_allclose(read, [1.0, 2.0])


@pytest.mark.parametrize("diverged", [np.nan, np.inf])
def test_a_diverged_point_breaks_the_curve(diverged: float) -> None:
    broken = curve([1.0, 10.0, 100.0, 1000.0], [4.0, 3.0, diverged, 2.0])
    read, _ = broken.at(np.array([1.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1000.0]))
    np.testing.assert_array_equal(np.isfinite(read), [1, 1, 1, 0, 0, 0, 1])
    assert broken.broken == ("m2",)


def test_a_single_point_covers_itself_alone() -> None:
    read, _ = curve([50.0], [1.5]).at(np.array([49.0, 50.0, 51.0]))
    np.testing.assert_array_equal(read, [np.nan, 1.5, np.nan])


def test_one_curve_per_family_and_setting(results: pd.DataFrame) -> None:
    curves = scaling_curves(results, "cross_entropy")
    assert len(curves) == 2 * 8
    assert [c.setting.label for c in curves[:8]] == [
        "2-bit float E1 B64",
        "3-bit float E2 B64",
        "4-bit float E2 B64",
        "4-bit float E2 B64 scope all",
        "5-bit float E2 B64",
        "6-bit float E3 B64",
        "8-bit float E4 B64",
        "16-bit",
    ]
    for c in curves:
        assert len(c.bits) == 6 and (np.diff(c.bits) > 0).all()
        assert c.models[0].endswith("32x2") and c.models[-1].endswith("128x4")


def test_missing_values_of_every_kind_are_one_setting(results: pd.DataFrame) -> None:
    typed = results.assign(
        exponent_bits=results["exponent_bits"].astype("Int64"),
        block_size=results["block_size"].astype("Int64"),
        total_bits=results["total_bits"].astype("Int64"),
    )
    plain, nullable = (scaling_curves(frame, "zero_shot") for frame in (results, typed))
    assert [c.setting for c in plain] == [c.setting for c in nullable]
    assert plain[-1].setting == Setting("none", 16, None, None, None, 0.0, False, "linear")


def test_axes_read_their_column_and_skip_unknown_sizes(results: pd.DataFrame) -> None:
    results.loc[results["model"] == "sotu-neox-32x2", "quantized_bits"] = None
    by_axis = {axis: scaling_curves(results, axis=axis)[0] for axis in ("quantized", "nominal")}
    assert len(by_axis["quantized"].bits) == 5 and len(by_axis["nominal"].bits) == 6
    assert by_axis["quantized"].bits[0] == 12 * 32**2 * 4 * 2.25
    with pytest.raises(ValueError, match="unknown axis 'params'"):
        scaling_curves(results, axis="params")


def test_repeated_points_are_averaged_without_a_smaller_error(results: pd.DataFrame) -> None:
    again = results[results["experiment_id"] == "sotu-neox-64x2-5-linear"]
    again = again.assign(experiment_id="again", value=again["value"] + 0.2)
    both = pd.concat([results, again], ignore_index=True)
    one, two = (
        next(c for c in scaling_curves(frame, "cross_entropy") if c.setting.bits == 5)
        for frame in (results, both)
    )
    np.testing.assert_allclose(two.value - one.value, [0, 0, 0.1, 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(two.stderr, one.stderr)
    np.testing.assert_allclose(two.bits, one.bits)
    assert two.setting == one.setting and two.models == one.models


def test_two_models_of_one_size_are_two_points(results: pd.DataFrame) -> None:
    """In the order of their names at every precision; the curve steps from one to the other."""
    twins = results[results["model"] == "sotu-opt-64x4"]
    loss = twins["metric"] == "cross_entropy"
    twins = twins.assign(
        experiment_id=twins["experiment_id"] + "-twin",
        model="a-twin",
        value=twins["value"] + np.where(loss, 0.5, 0.0),
    )
    both = pd.concat([results, twins], ignore_index=True)
    for curve in scaling_curves(both, "cross_entropy")[8:]:
        assert curve.models[3:5] == ("a-twin", "sotu-opt-64x4") and len(curve.bits) == 7
        assert curve.bits[3] == curve.bits[4]
        assert curve.value[3] == pytest.approx(curve.value[4] + 0.5)
        below, at, above = curve.at(curve.bits[3] * np.array([1 - 1e-6, 1, 1 + 1e-6]))[0]
        assert below == pytest.approx(curve.value[3], abs=1e-4)
        assert at == curve.value[4] and above == pytest.approx(at, abs=1e-4)


def test_labels_tell_settings_apart() -> None:
    base = dict(method="rtn", bits=3, data_type="int", exponent_bits=None, block_size=None)
    rest = dict(outlier_fraction=0.02, centered=True, scope="all")
    label = Setting(**(base | {"method": "gptq"} | rest)).label  # type: ignore[arg-type]
    assert label == "3-bit int per tensor p=0.02 centered scope all gptq"


def test_the_main_settings_of_a_full_grid_are_those_the_paper_recommends() -> None:
    grid = [
        Setting.make(bits, data_type, block_size=block)
        for bits in (3, 4)
        for data_type in ("dynamic", "int", "float", "quantile")
        for block in (1024, "row", 64, None)
    ]
    assert main_settings(grid) == {Setting.make(bits, "float", block_size=64) for bits in (3, 4)}


def test_main_settings(results: pd.DataFrame) -> None:
    settings = [c.setting for c in scaling_curves(results, "zero_shot")]
    main = main_settings([*settings, INT4])
    assert {s.label for s in main} == {s.label for s in settings} - {"4-bit float E2 B64 scope all"}
    assert INT4 not in main
    assert setting_of(results.iloc[0]) in main


def test_remembered_curves_are_the_same_and_forgotten_after(results: pd.DataFrame) -> None:
    with remembered():
        first = scaling_curves(results, "cross_entropy")
        first.reverse()  # a caller's own list
        again = scaling_curves(results, "cross_entropy")
        assert again[0] is first[-1]
        assert scaling_curves(results, "zero_shot")[0].metric == "zero_shot"
        assert scaling_curves(results[results["bits"] == 4], "cross_entropy")[0].setting.bits == 4
    assert scaling_curves(results, "cross_entropy")[0] is not again[0]
