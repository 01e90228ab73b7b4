"""A whole sweep in this process: results, resuming, failures, broken models."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from orchestrator.errors import SweepStopped
from orchestrator.paths import ROOT
from orchestrator.run import worker
from orchestrator.run.worker import Worker
from orchestrator.store.store import Store
from orchestrator.study.job import JobResult
from orchestrator.sweep import main
from quantizers.resident import ResidentModel


def sweep(study: Path, *options: str) -> int:
    return main([str(study), "--db", str(study.parent / "t.db"), "--executor", "local", *options])


def stored(study: Path) -> Store:
    return Store.open(f"sqlite:///{study.parent}/t.db")


def test_results_are_complete_and_precision_costs_loss(study):
    assert sweep(study) == 0
    results = stored(study).results()
    assert results["experiment_id"].nunique() == 3
    loss = results[results["metric"] == "cross_entropy"].set_index("bits")["value"]
    assert loss[16] < loss[3]
    assert 3.0 < loss[16] < 5.0
    sizes = results.groupby("bits")["total_bits"].first()
    assert sizes[16] > sizes[4] > sizes[3]
    accuracy = results[(results["task"] == "sotu_blank") & (results["metric"] == "acc")]
    for row in accuracy.itertuples():
        scores = stored(study).item_scores(row.experiment_id, "sotu_blank", "acc")
        assert len(scores) == row.n_items == 20
        assert scores.mean() == pytest.approx(row.value)


def test_same_command_does_only_what_is_missing(study, capsys):
    assert sweep(study) == 0
    before = len(stored(study).attempts())
    assert sweep(study) == 0
    assert "3 stored, 0 to do" in capsys.readouterr().out
    assert len(stored(study).attempts()) == before
    study.write_text(study.read_text().replace("[sotu_blank]", "[sotu_blank, sotu_corruption]"))
    assert sweep(study) == 0
    results = stored(study).results()
    assert set(results["task"]) == {"sotu_blank", "sotu_corruption", "sotu"}
    assert not results.duplicated(["experiment_id", "task", "metric"]).any()


def test_interrupted_sweep_goes_on(study, monkeypatch):
    run, calls = Worker.run, []

    def interrupt_second(self, job) -> JobResult:
        calls.append(job)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run(self, job)

    monkeypatch.setattr(Worker, "run", interrupt_second)
    assert sweep(study) == 130
    assert len(stored(study).attempts()) == 1
    assert sweep(study) == 0
    assert stored(study).results()["experiment_id"].nunique() == 3
    assert len(stored(study).attempts()) == 3


def test_same_numbers_whatever_ran_before(study, tmp_path):
    assert sweep(study) == 0
    alone = tmp_path / "alone"
    alone.mkdir()
    other = alone / "study.yaml"
    other.write_text(study.read_text().replace("[16, 4, 3]", "3"))
    assert sweep(other) == 0
    key = ["experiment_id", "task", "metric"]
    both = stored(other).results().merge(stored(study).results(), on=key)
    assert len(both) > 0
    assert (both["value_x"] == both["value_y"]).all()


def test_failure_is_stored_skipped_and_retried(study, monkeypatch, capsys):
    apply = ResidentModel.apply

    def fail_at_3(self, config):
        if config.bits == 3:
            raise ValueError("no 3 bit today")
        return apply(self, config)

    with monkeypatch.context() as patch:
        patch.setattr(ResidentModel, "apply", fail_at_3)
        assert sweep(study) == 1
    failed = stored(study).failed_experiments()
    assert list(failed.values()) == ["ValueError: no 3 bit today"]
    for attempt in stored(study).attempts().itertuples():  # the failed one too
        assert attempt.host and attempt.device and attempt.versions["torch"]
        assert attempt.git_commit or not (ROOT / ".git").exists()
        assert attempt.seconds_load > 0 and attempt.seconds_quantize > 0
        assert (attempt.seconds_score > 0) == (attempt.status == "done")
        assert attempt.seconds_store > 0 and attempt.peak_memory > 1e8
    assert stored(study).results()["experiment_id"].nunique() == 2
    assert sweep(study) == 1
    assert "1 failed before" in capsys.readouterr().out
    assert sweep(study, "--retry-failed") == 0
    assert stored(study).results()["experiment_id"].nunique() == 3


@pytest.mark.parametrize(
    ("error", "code", "statuses"),
    [
        (RuntimeError("CUDA error: device-side assert triggered"), 3, ["lost"]),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), 1, ["failed"] * 3),
    ],
)
def test_after_a_cuda_error_a_process_computes_no_more(
    study, monkeypatch, capsys, error, code, statuses
):
    """Too little memory is none: there the next setting may fit."""

    def fail(self, config):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ResidentModel, "apply", fail)
        assert sweep(study) == code
    assert list(stored(study).attempts()["status"]) == statuses
    assert str(error) in capsys.readouterr()[0 if code == 1 else 1]
    assert sweep(study, "--retry-failed") == 0


def test_a_model_is_loaded_once(study, monkeypatch):
    loads = []

    load = worker.load_model
    monkeypatch.setattr(worker, "load_model", lambda *a: loads.append(a[0].name) or load(*a))
    study.write_text(study.read_text().replace("-32x2]", "-32x2, sotu-neox-64x2]"))
    assert sweep(study) == 0
    assert loads == ["sotu-neox-64x2", "sotu-neox-32x2"]  # the larger one first


def test_a_sweep_that_never_began_leaves_no_database(study, tmp_path, monkeypatch, capsys):
    """An empty one would be what every command reads by default."""

    def stop(self):
        raise SweepStopped("a worker needs 8 CPUs on one node; the nodes have 2 CPUs")

    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.run.stages.Stages.run", stop)
        assert sweep(study) == 3
        err = capsys.readouterr().err
        assert "8 CPUs" in err and not list(tmp_path.glob("*.db*"))
        assert "no database is left" in err  # its name was said
    assert sweep(study) == 0
    monkeypatch.setattr("orchestrator.run.stages.Stages.run", stop)
    assert sweep(study) == 3 and stored(study).results()["experiment_id"].nunique() == 3


def test_broken_model_does_not_stop_the_others(study, tmp_path, capsys):
    good, bad = ROOT / "models" / "sotu-neox-32x2", tmp_path / "bad"
    shutil.copytree(good, bad)
    weights = bad / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    models = tmp_path / "models.yaml"
    models.write_text(
        json.dumps(
            {
                "families": {
                    "f": {
                        "tokenizer": str(ROOT / "models" / "tokenizer"),
                        "models": [
                            {"name": "bad", "path": str(bad)},
                            {"name": "sotu-neox-32x2", "path": str(good)},
                        ],
                    }
                }
            }
        )
    )
    study.write_text(study.read_text().replace("[sotu-neox-32x2]", "f"))
    assert sweep(study, "--models", str(models), "--dry-run") == 2
    assert "model bad: " in capsys.readouterr().err
    assert sweep(study, "--models", str(models)) == 2
    assert "model bad: " in capsys.readouterr().err
    assert set(stored(study).results()["model"]) == {"sotu-neox-32x2"}
    assert len(stored(study).failed_experiments()) == 3


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_users_own_model_of_another_architecture(study, tmp_path, architecture):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    size = {"vocab_size": 2048, "bos_token_id": 0, "eos_token_id": 0}
    shape = {
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256},
        "llama": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
        },
    }[architecture]
    folder = tmp_path / "mine"
    config = AutoConfig.for_model(architecture, **size, **shape)
    AutoModelForCausalLM.from_config(config).half().save_pretrained(folder)
    shutil.copytree(ROOT / "models" / "tokenizer", folder, dirs_exist_ok=True)
    models = tmp_path / "models.yaml"
    models.write_text("families:\n  mine:\n    models: [{name: mine, path: mine}]\n")
    study.write_text(
        study.read_text()
        .replace("[sotu-neox-32x2]", "mine")
        .replace("block_size: 64", "outlier_fraction: 0.1")
    )
    assert sweep(study, "--models", str(models)) == 0
    results = stored(study).results()
    assert results["experiment_id"].nunique() == 3
    assert results["n_params"].notna().all()


def test_dry_run_estimates_worker_hours_from_earlier_rows(study, capsys):
    assert sweep(study) == 0
    attempts = stored(study).attempts()
    seconds = attempts[["seconds_load", "seconds_quantize", "seconds_score"]].to_numpy().sum()
    capsys.readouterr()
    assert sweep(study, "--dry-run") == 0
    hours = float(capsys.readouterr().out.split("about ")[1].split()[0])
    assert hours == pytest.approx(seconds / 3600, rel=0.1)
    study.write_text(study.read_text().replace("[16, 4, 3]", "[16, 4, 3, 2]"))
    assert sweep(study, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "3 stored, 1 to do" in out
    whole, rest = float(out.split("about ")[1].split()[0]), float(out.split("grid, ")[1].split()[0])
    assert rest == pytest.approx(whole / 4, rel=0.1)
    study.write_text(study.read_text().replace("[sotu-neox-32x2]", "[sotu-neox-128x4]"))
    study.write_text(study.read_text().replace("[16, 4, 3, 2]", "[16, 4, 3]"))
    assert sweep(study, "--dry-run") == 0
    out = capsys.readouterr().out
    larger = float(out.split("about ")[1].split()[0])
    assert larger == pytest.approx(hours * 1317632 / 156544, rel=0.15)
    assert "1 models never run" in out
    assert len(stored(study).attempts()) == len(attempts)


def test_dry_run_counts_and_writes_nothing(study, capsys):
    assert sweep(study, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "3 experiments x 1 zero-shot tasks = 3 zero-shot measurements" in out
    assert not (study.parent / "t.db").exists()
