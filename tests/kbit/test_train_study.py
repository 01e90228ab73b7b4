"""`kbit train-study`: what is missing is trained, bad studies end with one line and exit code 2."""

import csv
import shutil
import subprocess
import sys

import pytest
import yaml

from kbit.cli import main
from kbit.study_file import open_study
from orchestrator.paths import ROOT
from orchestrator.study.models import load_models


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_missing_is_trained_and_nothing_twice(study, tmp_path, capsys):
    assert main(["train-study", str(study()), "--executor", "local"]) == 0
    said = capsys.readouterr().out
    assert "2 runs: 0 finished, 2 to train" in said and "half precision is emulated" in said
    assert "neox-32x1-control-s0: held-out loss" in said
    table = rows(tmp_path / "out/runs.csv")
    assert [(r["variant"], r["step"]) for r in table] == [
        ("control", "6"),
        ("control", "12"),
        ("dropout=0.1 dtype=fp16", "6"),
        ("dropout=0.1 dtype=fp16", "12"),
    ]
    assert float(table[1]["heldout_loss"]) < float(table[0]["heldout_loss"]) < 6
    families = load_models(tmp_path / "out/models.yaml")
    assert len(families) == 4

    shutil.rmtree(tmp_path / "out/neox-32x1-control-s0")  # its row stays
    assert main(["train-study", str(study(seeds=[0, 1])), "--executor", "local"]) == 0
    assert "4 runs: 2 finished, 2 to train" in capsys.readouterr().out
    assert not (tmp_path / "out/neox-32x1-control-s0").exists()
    assert rows(tmp_path / "out/runs.csv")[:4] == table


def test_ray_trains_the_same_models(study, tmp_path, capsys):
    assert main(["train-study", str(study()), "--executor", "local"]) == 0
    local = {(r["run"], r["step"]): r["sha256"] for r in rows(tmp_path / "out/runs.csv")}
    shutil.rmtree(tmp_path / "out/neox-32x1-control-s0")
    (tmp_path / "out/runs.csv").unlink()
    # A process of its own: Ray leaves its token and its connection in the one that starts it.
    program = [sys.executable, "-m", "kbit.cli", "train-study", str(study())]
    subprocess.run(program, cwd=ROOT, check=True)
    again = {(r["run"], r["step"]): r["sha256"] for r in rows(tmp_path / "out/runs.csv")}
    assert again == local
    assert (tmp_path / "out/neox-32x1-control-s0/model.safetensors").exists()


def test_dry_run_trains_and_writes_nothing(study, tmp_path, capsys):
    assert main(["train-study", str(study()), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "2 runs to train" in said and "1,536 tokens" in said
    assert not (tmp_path / "out").exists()
    shutil.copytree(ROOT / "models/tokenizer", tmp_path / "out/tokenizer")
    assert main(["train-study", str(study()), "--dry-run"]) == 0
    assert "2 runs: 0 finished, 2 to train" in capsys.readouterr().out


def test_the_papers_own_grid_is_priced(capsys, monkeypatch):
    monkeypatch.setattr("training.memory.keep_freed_memory", lambda: None)
    assert main(["train-study", str(ROOT / "sweeps/intriguing-paper.yaml"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    # Four sizes of the final recipe, ten more variants at two sizes.
    assert "24 runs to train" in said and "GPU-hours" in said
    assert f"{24 * 75_000 * 256 * 2048:,} tokens" in said


def test_the_study_for_a_gpu_takes_any_text(study, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("training.memory.keep_freed_memory", lambda: None)
    path = ROOT / "sweeps/training-gpu.yaml"
    assert main(["train-study", str(path), "--text", str(tmp_path / "text"), "--dry-run"]) == 0
    assert "12 runs to train" in capsys.readouterr().out
    opened = open_study(path, str(tmp_path / "text"))
    assert opened.place.text == str(tmp_path / "text")
    (params,) = {r.recipe.linear_params + 2 * 8192 * r.recipe.hidden_size for r in opened.runs}
    assert 10e6 < params < 50e6 and len({run.recipe.seed for run in opened.runs}) == 3
    assert all(sweep.exists() for sweep in opened.ladder)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"variants": [{"dropout": 1.0}]}, "study.yaml: variants.0: dropout: must be 0 or more"),
        ({"variants": [{"dtype": "fp16", "norm_dtype": "fp16"}]}, "unknown field 'norm_dtype'"),
        ({"seeds": [1, 1]}, "asks for neox-32x1-control-s1, as variants.0 (seed 1) does"),
        ({"steps": 3}, "study.yaml: steps: unknown key"),
        ({"text": "nowhere"}, "0 .txt files"),
        ({"variants": []}, "variants: "),
    ],
)
def test_bad_studies_end_with_one_line(study, tmp_path, capsys, changes, problem):
    assert main(["train-study", str(study(**changes)), "--executor", "local"]) == 2
    captured = capsys.readouterr()
    assert problem in captured.err and len(captured.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["train-study", "score-study"])
def test_no_study_is_taken_for_granted(command, capsys):
    """The shipped one takes days."""
    with pytest.raises(SystemExit) as end:
        main([command])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: the following arguments are required: study")


def test_a_folder_with_another_recipes_model_is_not_written_over(study, tmp_path, capsys):
    assert main(["train-study", str(study(variants=[{}])), "--executor", "local"]) == 0
    (tmp_path / "out/runs.csv").unlink()
    recipe = yaml.safe_load(study().read_text())["recipe"]
    changed = study(variants=[{}], recipe={**recipe, "steps": 14})
    assert main(["train-study", str(changed), "--executor", "local"]) == 2
    assert "a model of another recipe" in capsys.readouterr().err


def test_a_full_disk_stops_the_study_and_the_same_command_goes_on(
    study, tmp_path, capsys, monkeypatch
):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("training.train.ship", full)
        assert main(["train-study", str(study(keep=[])), "--executor", "local"]) == 3
    error = capsys.readouterr().err
    assert "No space left on device" in error and "the same command goes on" in error
    assert (tmp_path / "out/neox-32x1-control-s0/checkpoint.pt").exists()
    assert main(["train-study", str(study(keep=[])), "--executor", "local"]) == 0
    log = (tmp_path / "out/neox-32x1-control-s0/train.log").read_text()
    assert "continuing from step 12" in log
