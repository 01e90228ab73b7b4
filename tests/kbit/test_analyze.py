"""`kbit analyze`: rows a site, outlier rules, the planted control, and what a database gets."""

import io

import pandas as pd
import pytest

from kbit.cli import main
from orchestrator.store.store import Store

ASK = ["analyze", "sotu-neox-32x2", "--windows", "2"]


def table(capsys, *more: str) -> pd.DataFrame:
    assert main([*ASK, *more, "--format", "csv"]) == 0
    return pd.read_csv(io.StringIO(capsys.readouterr().out))


def test_a_row_a_site_and_stars_where_rescaling_matters(capsys):
    rows = table(capsys)
    assert list(rows["kind"]) == ["qkv", "attention_output", "up", "down"] * 2
    assert rows["gain_std"].notna().tolist() == [True, False, True, False] * 2
    assert rows["relative_output_error"].between(0.001, 0.1).all()
    assert main(ASK) == 0
    said = capsys.readouterr().out
    for starred in ("rmse*", "token_std*", "gain_std*", "spectral_norm*", "weight_std*"):
        assert starred in said
    assert "relative_rmse*" not in said and "* changes when a norm is scaled" in said


def test_planted_outliers_show(capsys):
    before, after = table(capsys), table(capsys, "--plant", "1x64")
    reads_norm = before["gain_std"].notna()
    ratio = after["max_to_median"] / before["max_to_median"]
    assert (ratio[reads_norm] > 10).all() and (ratio[~reads_norm] < 1.01).all()
    rules = table(capsys, "--outliers")
    assert list(rows := rules["rule"]) == ["above 6.0", "searched", "z-score"], rows
    assert rules["dimensions"][1] == 1


def test_what_is_measured_is_stored(capsys, tmp_path):
    path = tmp_path / "analysis.db"
    rows = table(capsys, "--db", str(path))
    stored = Store.open(f"sqlite:///{path}").results()
    stored = stored[stored["task"] == "weights_and_activations"].set_index("metric")["value"]
    qkv = rows[rows["kind"] == "qkv"]
    assert stored["spectral_norm_qkv"] == pytest.approx(qkv["spectral_norm"].mean())
    assert stored["outlier_dimensions_searched"] == 1
    assert "gain_std_down" not in stored


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["--plant", "4"], "--plant 4: channels x factor"),
        (["--plant", "1x64", "--db", "x.db"], "a planted model is no experiment"),
        (["--plant", "999x64"], "sotu-neox-32x2: channels 999"),
        (["--windows", "100000"], "windows need"),
        (["--corpus", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_bad_questions_end_with_one_line(capsys, more, problem):
    assert main([*ASK, *more]) == 2
    captured = capsys.readouterr()
    assert problem in captured.err and len(captured.err.splitlines()) == 1
