"""`kbit score-study`: every run is scored once, its rows stay when its weights are gone."""

import csv
import shutil

import pytest
import yaml

from analysis.claims.intriguing.runs import is_planted
from analysis.curves.scaling import scaling_curves
from analysis.documents.study_data import read_study, read_tables
from kbit.cli import main

LADDER = {
    "models": "*",
    "grids": [{"bits": 16}, {"bits": 3, "data_type": "int", "models": ["* step 12"]}],
    "corpora": [{"name": "out/heldout.txt", "max_tokens": 700}],
}


@pytest.fixture
def trained(study, tmp_path):
    """A function that trains a study of these seeds and returns its path."""
    (tmp_path / "ladder.yaml").write_text(yaml.safe_dump(LADDER))

    def train(seeds):
        path = study(seeds=seeds, ladder=["ladder.yaml"], results="kept", plants=["2x16"])
        assert main(["train-study", str(path), "--executor", "local"]) == 0
        return path

    return train


def _value(rows, metric):
    at_16 = rows[(rows["metric"] == metric) & (rows["bits"] == 16) & (rows["step"] == 12)]
    return float(at_16["value"].iloc[0])


def score(path):
    return main(["score-study", str(path), "--executor", "local"])


def test_runs_are_scored_once_and_never_share_a_curve(trained, tmp_path, capsys):
    assert score(trained([0])) == 0
    everything, scores = read_study(tmp_path / "kept")
    control, planted = (everything[is_planted(everything) == those] for those in (False, True))
    # A planted model is the same function; quantized, and looked at, it is not.
    assert set(planted["variant"]) == {"planted 2x16"}
    for name, same in (("cross_entropy", True), ("max_to_median_qkv", False)):
        pair = [_value(rows, name) for rows in (control, planted)]
        assert (pair[1] == pytest.approx(pair[0], rel=1e-4)) == same
    results = control.reset_index(drop=True)
    losses = results[results["metric"] == "cross_entropy"]
    assert set(losses["variant"]) == {"control", "dropout=0.1 dtype=fp16"}
    counts = losses.groupby(["run", "seed", "step"]).size()
    assert counts.to_dict() == {
        ("neox-32x1-control-s0", 0, 6): 1,
        ("neox-32x1-control-s0", 0, 12): 2,
        ("neox-32x1-dropout=0.1_dtype=fp16-s0", 0, 6): 1,
        ("neox-32x1-dropout=0.1_dtype=fp16-s0", 0, 12): 2,
    }
    assert len(scores(losses["experiment_id"], losses["task"].iloc[0], "cross_entropy")) == len(
        losses
    )
    assert [len(curve.models) for curve in scaling_curves(results, "cross_entropy")] == [1] * 6
    # Outliers of a seed are counted above the threshold of its control.
    found = results[results["metric"] == "outlier_threshold_searched"]
    assert len(found) == 2 and found["value"].nunique() == 1
    assert set(found["step"]) == {12}
    # What a matrix looks like, and how its weights are distributed, of every last model.
    matrices = read_tables(tmp_path / "kept")["matrices"]
    assert set(matrices["model"]) == set(found["model"]) | {"neox-32x1-control-s0 planted 2x16"}
    means = matrices[matrices["kind"] == "qkv"].groupby("model")["rmse"].mean()
    stored = everything[everything["metric"] == "rmse_qkv"].set_index("model")["value"]
    assert means.to_dict() == pytest.approx(stored.to_dict(), rel=1e-4)
    assert (matrices["weight_q0"] < matrices["weight_q0.5"]).all()
    assert matrices["gain_q1"].notna().tolist() == matrices["gain_std"].notna().tolist()

    capsys.readouterr()
    asked = ["results", "--db", str(tmp_path / "out/scores.db"), "--format", "csv"]
    assert main([*asked, "--variant", "control", "--step", "12", "--metric", "cross_entropy"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [(r["run"], r["variant"], r["seed"], r["step"]) for r in rows] == 2 * [
        ("neox-32x1-control-s0", "control", "0", "12")
    ]

    before = (tmp_path / "kept/results.csv.gz").read_bytes()
    shutil.rmtree(tmp_path / "out/neox-32x1-control-s0")  # its rows stay
    (tmp_path / "out/scores.db").unlink()
    path = trained([0, 1])
    capsys.readouterr()
    assert main(["score-study", str(path), "--dry-run"]) == 0
    assert "4 runs: 2 scored, 2 to score, 0 without weights here" in capsys.readouterr().out
    assert (tmp_path / "kept/results.csv.gz").read_bytes() == before
    assert score(path) == 0
    after, scores = read_study(tmp_path / "kept")
    after = after[~is_planted(after)]
    assert after[after["seed"] == 0].reset_index(drop=True).equals(results)
    losses = after[after["metric"] == "cross_entropy"]
    assert len(losses) == 12 and losses["experiment_id"].nunique() == 12
    assert len(scores(losses["experiment_id"], losses["task"].iloc[0], "cross_entropy")) == 12


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, "study.yaml: ladder: missing"),
        ({"ladder": ["nowhere.yaml"]}, "nowhere.yaml: no such file"),
    ],
)
def test_a_study_without_a_ladder_ends_with_one_line(study, capsys, changes, problem):
    assert main(["score-study", str(study(**changes))]) == 2
    captured = capsys.readouterr()
    assert problem in captured.err and len(captured.err.splitlines()) == 1
