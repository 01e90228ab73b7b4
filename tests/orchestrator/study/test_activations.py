"""Weights and activations as factors of one sweep file, from the file to the rows."""

import pandas as pd
import pytest
import yaml

from kbit.cli import main as kbit
from orchestrator.store.store import Store
from orchestrator.study.grid import expand
from orchestrator.study.models import load_models
from orchestrator.study.spec import load_sweep
from orchestrator.sweep import main

SWEEP = {
    "models": ["sotu-neox-32x2"],
    "grids": [
        {"bits": 16, "activations": [16, "token"]},
        {"bits": 8, "data_type": "int", "block_size": "row", "calibration": "rand",
         "folding": ["none", {"logarithmic": 1}], "activations": [16, {"token": 8}, "by_type"]},
    ],
    "calibrations": {"rand": {"corpus": "random", "windows": 4, "length": 64}},
    "corpora": [{"name": "sotu", "max_tokens": 600}],
}  # fmt: skip


def swept(tmp_path, **changes):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**SWEEP, **changes}))
    return main([str(path), "--db", str(tmp_path / "t.db"), "--executor", "local"])


def test_a_sweep_of_folding_and_activations(tmp_path, capsys):
    assert swept(tmp_path) == 0
    store = Store.open(f"sqlite:///{tmp_path / 't.db'}")
    attempts, results = store.attempts(), store.results()
    assert set(attempts["status"]) == {"done"} and len(attempts) == 8
    arithmetic = attempts.set_index(["bits", "folding", "activations"])["arithmetic"].to_dict()
    rounded = {key: value for key, value in arithmetic.items() if key[2] != "16"}
    assert {value for key, value in rounded.items() if key[0] == 8} == {"integer"}
    assert rounded[16, "none", "token 8"] == "float" and len(rounded) == 5
    assert all(pd.isna(value) for key, value in arithmetic.items() if key[2] == "16")
    loss = results[results["metric"] == "cross_entropy"]
    values = loss.set_index(["bits", "folding", "activations"])["value"]
    assert values.nunique() == 8
    assert (values - values[16, "none", "16"]).abs().max() < 0.02
    read = loss.set_index(["bits", "folding", "activations"])["calibration"].notna()
    assert read.sum() == 4 and not read[8, "none", "token 8"]
    capsys.readouterr()
    kbit(["results", "--db", str(tmp_path / "t.db"), "--metric", "cross_entropy"])
    shown = capsys.readouterr().out
    assert "logarithmic 1.0" in shown and "by_type 8" in shown and "scales" not in shown
    assert shown.count("vectorwise-w8a8") == 1


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"folding": {"smoothquant": 3}}, "folding: smoothquant takes an alpha from 0 to 2, not 3"),
        ({"folding": "awk"}, "folding: 'awk' is not one of none, smoothquant, logarithmic, awq"),
        ({"folding": "awq", "bits": 16}, "awq goes by how weights are rounded"),
        ({"activations": "tensor"}, "reads calibration text, none is named"),
        ({"activations": {"by_range": {"v0": 9, "v1": 9}}}, "v0 9 is not below v1 9"),
        ({"activations": [{"token": 9}]}, "activations: token takes 4 to 8 bits, not 9"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, grid, said):
    grids = [{"bits": 8, "data_type": "int", "block_size": "row", **grid}]
    assert swept(tmp_path, grids=grids) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1, error


def expanded(tmp_path, **grid):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**SWEEP, "grids": [grid]}))
    found = expand(load_sweep(path), load_models(), path, on_gpu=False).experiments
    return {experiment.setting.label.partition(" on ")[0] for experiment in found}


def test_recipes_stand_for_their_factors_and_keys_beside_them_override(tmp_path):
    assert expanded(
        tmp_path, recipe=["fptq", "llm-int8"], calibration="rand", block_size=["row", {"group": 64}]
    ) == {
        "4-bit int per row folded logarithmic 1.0 A8 by_type",
        "4-bit int G64 folded logarithmic 1.0 A8 by_type",
        "8-bit int per row A8 decomposed",
        "8-bit int G64 A8 decomposed",
    }
    assert expanded(tmp_path, recipe="columnwise-w4", bits=[3, 4]) == {
        "3-bit int per row",
        "4-bit int per row",
    }


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"recipe": "fptqq"}, "recipe: 'fptqq' is none; known: vectorwise-w8a8"),
        ({"recipe": "fptq", "foldings": 3}, "foldings: unknown key"),
        ({"recipe": "fptq"}, "reads calibration text, none is named"),
        ({"recipe": "gptq", "exponent_bits": {9: 2}}, "exponent_bits: 9 is none of this grid's"),
    ],
)
def test_mistakes_with_recipes_are_one_line(tmp_path, capsys, grid, said):
    assert swept(tmp_path, grids=[grid]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1, error
