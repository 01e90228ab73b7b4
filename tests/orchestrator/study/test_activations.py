"""Weights and activations as factors of one sweep file, from the file to the rows."""

import io
import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.numpy import save_file

from kbit.cli import main as kbit
from orchestrator.errors import InputError
from orchestrator.store.store import Store
from orchestrator.study.grid import expand
from orchestrator.study.models import load_models
from orchestrator.study.spec import load_sweep
from orchestrator.sweep import main
from quantizers.folding import same_function

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
    kbit(["results", "--db", str(tmp_path / "t.db"), "--format", "csv"])
    rows = (csv := tmp_path / "rows.csv").write_text(capsys.readouterr().out) and pd.read_csv(csv)
    called = rows.set_index("experiment_id")["recipe"].dropna()
    assert set(called) == {"vectorwise-w8a8"} and called.index.nunique() == 1
    assert kbit(["import", str(csv), "--db", str(tmp_path / "again.db")]) == 0
    capsys.readouterr()
    assert kbit(["sites", "--db", str(tmp_path / "t.db"), "--all", "--format", "csv"]) == 0
    sites = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert len(sites) == 5 * 8  # settings that round activations x matrices
    assert set(sites.loc[sites["recipe"].notna(), "recipe"]) == {"vectorwise-w8a8"}
    static = sites[sites["format"] == "tensor 8"]
    down = sites["site"].str.endswith("dense_4h_to_h") & sites["setting"].str.contains("by_type")
    assert set(sites[down]["format"]) == {"token 8"} and down.sum() == 4
    assert static["clamped"].between(0, 0.05).all() and static["clamped"].gt(0).any()
    assert sites[sites["format"] == "token 8"]["clamped"].isna().all()
    folded = static[static["setting"].str.contains("logarithmic")]
    reads_norm = ~folded["site"].str.endswith("attention.dense")
    assert (folded["range_read"] != folded["range"])[reads_norm].all() and reads_norm.sum() == 4
    assert static["levels"].between(1, 127).all()
    assert (static["median_token"] <= static["token_99"]).all()
    assert (static["token_99"] <= static["range"]).all() and (static["median_token"] > 0).all()
    assert (static["median_channel"] < static["range"]).all()
    expected = 127 * static["median_channel_read"] / static["range_read"]
    assert static["levels"].to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-4)
    assert kbit(["sites", "--db", str(tmp_path / "t.db")]) == 0
    shown = capsys.readouterr().out
    assert "gpt_neox.layers.*.attention.dense" in shown and "layers.0" not in shown
    assert kbit(["sites", "--db", str(tmp_path / "t.db"), "--model", "x"]) == 2
    assert "no records of model x" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"folding": {"smoothquant": 3}}, "folding: smoothquant takes an alpha from 0 to 2, not 3"),
        ({"folding": "awk"}, "folding: 'awk' is not one of none, smoothquant, logarithmic, awq"),
        ({"folding": "awq", "bits": 16}, "awq goes by how weights are rounded"),
        ({"activations": "tensor"}, "reads calibration text, none is named"),
        ({"activations": {"by_range": {"v0": 9, "v1": 9}}}, "v0 9 is not below v1 9"),
        ({"activations": [{"token": 9}]}, "activations: token takes 4 to 8 bits, not 9"),
        ({"activations": "tensor-dynamic"}, "tensor-dynamic scales a token by later ones"),
        ({"kv": "tensor"}, "reads calibration text, none is named"),
        ({"kv": {"token": 9}}, "kv: token takes 4 to 8 bits, not 9"),
        ({"attention_bits": 16}, "attention_bits: 16 is not a whole number from 2 to 15"),
        ({"folding": {"hadamard": {"sed": 1}}}, "folding: hadamard takes {seed: 0}, not"),
        ({"folding": "hadamard", "scope": "all"}, "hadamard takes scope linear, not all"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, grid, said):
    weights = {} if grid.get("bits") == 16 else {"data_type": "int", "block_size": "row"}
    assert swept(tmp_path, grids=[{"bits": 8, **weights, **grid}]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1, error


@pytest.mark.parametrize(
    ("config", "grid", "said"),
    [
        ({"model_type": "bloom"}, {"folding": "hadamard"}, "BLOOM's embedding has a norm behind"),
        (
            {"model_type": "opt", "hidden_size": 64, "word_embed_proj_dim": 32},
            {"folding": "hadamard"},
            "this 'opt' projects its embeddings",
        ),
        ({"model_type": "gemma"}, {"folding": "awq"}, "wiring of architecture 'gemma' is not"),
        ({"model_type": "gemma"}, {"folding": "hadamard"}, "architecture 'gemma' is not known"),
        (
            {"model_type": "opt", "do_layer_norm_before": False},
            {"folding": "smoothquant"},
            "in this 'opt' the residual stream reads",
        ),
        (
            {"model_type": "deepseek_v3", "kv_lora_rank": 512},
            {"kv": "token"},
            "cache of architecture 'deepseek_v3' holds is a compressed latent (MLA)",
        ),
        ({"model_type": "jamba"}, {"kv": "token"}, "cache of architecture 'jamba' holds is not"),
        ({"model_type": "mixtral"}, {"activations": "token"}, "'mixtral' has experts"),
        ({"model_type": "mixtral"}, {"folding": "awq"}, "folding: no expert of 'mixtral' sees all"),
        ({"model_type": "jamba"}, {"attention_bits": 4}, "attention_bits: the wiring"),
        ({"model_type": "jamba"}, {"activations": "by_type"}, "by_type does not know the wiring"),
    ],
)
def test_what_an_architecture_cannot_do_is_said_before_it_is_loaded(tmp_path, config, grid, said):
    """The model's weights are none of its: nothing loads them."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 64, **config}))
    save_file({"no": np.zeros(1)}, folder / "model.safetensors")
    entry = {"name": "m", "path": str(folder)}
    models = tmp_path / "models.yaml"
    models.write_text(yaml.safe_dump({"families": {"f": {"models": [entry]}}}))
    grids = [{"bits": 8, "data_type": "int", "block_size": "row", "calibration": "rand", **grid}]
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**SWEEP, "models": ["m"], "grids": grids}))
    with pytest.raises(InputError, match=re.escape(said)) as error:
        expand(load_sweep(path), load_models(models), path, on_gpu=False)
    assert "model m at 8-bit int" in str(error.value) and "\n" not in str(error.value)


def test_a_setting_that_one_of_the_models_refuses_leaves_the_others(tmp_path, capsys):
    """BLOOM cannot be rotated."""
    models = ["sotu-neox-32x2", "sotu-bloom-32x2"]
    grids = [{"bits": 8, "data_type": "int", "block_size": "row", "calibration": "rand",
              "folding": ["none", "hadamard", "awq"]}]  # fmt: skip
    study = {"models": models, "grids": grids}
    said = "model sotu-bloom-32x2: folding: hadamard: BLOOM's embedding has a norm behind it"
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**SWEEP, **study}))
    assert main([str(path), "--db", str(tmp_path / "t.db"), "--dry-run"]) == 1
    assert said in capsys.readouterr().err
    for _ in range(2):  # stored once
        assert swept(tmp_path, **study) == 1
        out, error = capsys.readouterr()
        assert said in error and error.count("\n") == 1 and "1 experiment of it is not run" in error
        assert "1 of 6 experiments have failed" in out
    store = Store.open(f"sqlite:///{tmp_path / 't.db'}")
    attempts = store.attempts()
    failed = attempts[attempts["status"] == "failed"]
    assert len(attempts) == 6 and list(failed["model"]) == ["sotu-bloom-32x2"]
    assert failed["error"].iloc[0].startswith("folding: hadamard: BLOOM's embedding")
    assert swept(tmp_path, **{**study, "models": models[1:]}) == 2  # no model takes it: a mistake
    assert "model sotu-bloom-32x2 at 8-bit int per row folded hadamard" in capsys.readouterr().err


def test_a_folding_that_changes_the_function_is_stored_as_failed(tmp_path, capsys, monkeypatch):
    """And the sweep goes on: its check runs in every experiment that folds."""
    monkeypatch.setattr(same_function, "_TOLERANCE", 0.0)
    foldings = ["none", "smoothquant", "awq", "hadamard"]
    grid = {"bits": 8, "data_type": "int", "block_size": "row", "calibration": "rand"}
    assert swept(tmp_path, grids=[{**grid, "folding": foldings}]) == 1
    assert "3 of 4 experiments have failed" in capsys.readouterr().out
    attempts = Store.open(f"sqlite:///{tmp_path / 't.db'}").attempts().set_index("folding")
    assert attempts.loc["none", "status"] == "done"
    for error in attempts.loc[attempts["status"] == "failed", "error"]:
        assert "folding: gpt_neox.layers.0.attention.query_key_value behind" in error
        assert "of its largest output, more than 0" in error and "\n" not in error


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


def test_every_folding_goes_with_every_format(tmp_path):
    """As in the README, in one grid."""
    formats = [16, {"token": 8}, {"tensor": 8}, {"decomposed": {"bits": 8, "threshold": 6}}]
    formats += [{"by_type": 8}, {"by_range": {"bits": 8, "v0": 15, "v1": 150}}]
    foldings = [
        "none",
        {"smoothquant": 0.5},
        {"logarithmic": 1.0},
        "awq",
        {"hadamard": {"seed": 0}},
    ]
    asked = {"bits": [4, 8], "data_type": "int", "block_size": "row", "calibration": "rand"}
    asked |= {"folding": foldings, "activations": formats, "kv": [16, {"tensor": 8}, {"token": 8}]}
    assert len(expanded(tmp_path, **asked)) == 2 * 5 * 6 * 3


def test_rotated_models_have_statistics_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("KBIT_CACHE", str(tmp_path / "cache"))
    grid = {"bits": 8, "data_type": "int", "block_size": "row", "calibration": "rand"}
    grid |= {"folding": ["none", "hadamard"], "activations": "tensor", "kv": [16, "tensor"]}
    assert swept(tmp_path, grids=[grid, {"bits": 16}]) == 0
    results = Store.open(f"sqlite:///{tmp_path / 't.db'}").results()
    loss = results[results["metric"] == "cross_entropy"].set_index(["folding", "kv", "bits"])
    values = loss["value"]
    assert len(values) == values.nunique() == 5
    assert (values - values["none", "16", 16]).abs().max() < 0.02
    assert len(list((tmp_path / "cache" / "calibration").iterdir())) == 2
    head = 16 * 2048  # the only matrix without a bias
    bits = loss["total_bits"]
    assert bits["hadamard 0", "16", 8] == bits["none", "16", 8] + head
    assert bits["none", "tensor 8", 8] == bits["none", "16", 8] + 32 * 2 * 2
