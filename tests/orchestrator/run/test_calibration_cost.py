"""What a dry run says of calibrations, beside what collecting them takes."""

from dataclasses import replace

import pytest
import torch
import yaml

from orchestrator.run.calibration_cost import calibration_cost, calibration_lines
from orchestrator.run.estimate import Rate, Rates
from orchestrator.study.grid import expand
from orchestrator.study.models import ModelEntry, load_models
from orchestrator.study.spec import load_sweep
from quantizers.calibration import collect
from quantizers.loading import load_model
from quantizers.wiring import wiring_of

STUDY = {
    "models": ["sotu-llama-32x2", "sotu-opt-32x2"],
    "grids": [{"bits": 3, "data_type": "int", "rounding": ["nearest", "gptq"],
               "calibration": "own"}],
    "calibrations": {"own": {"corpus": "sotu", "windows": 4, "length": 64}},
    "corpora": [{"name": "sotu", "max_tokens": 600}],
}  # fmt: skip


@pytest.fixture
def asked(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    found = expand(load_sweep(path), load_models(), path, on_gpu=False).experiments
    return [e for e in found if e.calibration is not None]


def test_bytes_are_those_that_are_kept(asked):
    for experiment in asked:
        model, _ = load_model(experiment.model.checkpoint, "cpu")
        found = dict(collect(model.float(), wiring_of(model), torch.zeros(1, 8, dtype=torch.long)))
        fields = ("channel_max", "channel_mean", "token_max", "hessian")
        kept = sum(getattr(s, field).nbytes for s in found.values() for field in fields)
        assert calibration_cost(experiment, None).size == kept


def test_seconds_follow_from_what_scoring_took(asked):
    model = asked[0].model
    assert calibration_cost(asked[0], None).seconds is None
    rates = Rates({(model.name, "float32"): Rate(1e5, 1.0, 0.001)}, {}, 1)
    cost = calibration_cost(asked[0], rates)
    assert cost.tokens == 4 * 64 and cost.size is not None and cost.seconds is not None
    squares = (cost.size - 9 * 640 * 8) / 4  # two blocks of four inputs, and the head
    assert cost.seconds == pytest.approx(0.256 * (1 + squares / 1e5), rel=0.01)


def test_lines_name_the_calibration_and_what_is_not_known(asked):
    label = asked[0].setting.calibration
    [line] = calibration_lines(asked, {label: "own"}, None)
    assert line.startswith("calibration own: once for each of 2 models: 512 tokens, ")
    assert "KiB of statistics" in line and "seconds unknown" in line
    assert "on 2 models fewer than 10 tokens an input" in line  # 256 tokens, 128 inputs at most
    calibration = asked[0].calibration.model_copy(update={"windows": 20})  # 1,280 tokens
    [enough] = calibration_lines([replace(asked[0], calibration=calibration)], {}, None)
    assert "overfit" not in enough
    remote = ModelEntry(family="f", name="m", hub="nobody/nothing", n_params=10**9)
    elsewhere = replace(asked[0], model=remote)
    [line] = calibration_lines([*asked, elsewhere], {}, None)
    assert f"calibration {label}: once for each of 3" in line
    assert "of 1 models the sizes are unknown" in line


def test_a_dry_run_prints_them(tmp_path, capsys):
    from orchestrator.sweep import main

    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    assert main([str(path), "--dry-run", "--db", str(tmp_path / "none.db")]) == 0
    assert "calibration own: once for each of 2 models" in capsys.readouterr().out
