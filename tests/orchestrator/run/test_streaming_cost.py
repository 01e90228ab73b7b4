"""What a dry run says of streaming, beside what streaming takes; and which models choose it."""

import json
from dataclasses import replace

import pytest
import torch
import yaml

from evaluation.engine.block_by_block import BlockByBlock
from evaluation.engine.hidden_states import HiddenStates
from evaluation.engine.scoring import Scorer
from evaluation.engine.sequences import Sequences
from kbit.cli import main
from orchestrator.run import streaming_choice
from orchestrator.run.streaming_choice import streamed_models
from orchestrator.run.streaming_cost import Windows, streaming_cost
from orchestrator.study.grid import expand
from orchestrator.study.model_config import model_config
from orchestrator.study.models import load_models
from orchestrator.study.spec import Compute, load_sweep
from quantizers.streamed_model import StreamedModel

BLOOM_176B = {
    "model_type": "bloom", "hidden_size": 14336, "n_layer": 70, "n_head": 112, "vocab_size": 250880
}  # fmt: skip
STUDY = {
    "models": ["sotu-llama-64x4", "sotu-bloom-64x4", "sotu-opt-64x4", "sotu-neox-64x4"],
    "grids": [{"bits": [16, 4], "data_type": "float"}],
    "corpora": [{"name": "sotu", "max_tokens": 5000}],
    "compute": {"device": "cpu"},
}


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return path


@pytest.fixture
def asked(study):
    return expand(load_sweep(study), load_models(), study, on_gpu=False).asked


def test_bytes_are_those_that_streaming_takes(asked, tmp_path):
    for model in {e.model.name: e.model for e, _ in asked}.values():
        streamed = StreamedModel(model.checkpoint, torch.float32, "cpu")
        there = sum(p.nbytes for p in streamed.model.parameters() if not p.is_meta)
        scorer, states = Scorer(streamed.model, 128), HiddenStates(tmp_path, 2**40)
        windows = [([(7 * i + place) % 400 for place in range(129)], 128) for i in range(20)]
        plan = scorer.plan(Sequences.of(windows))
        for setting in range(3):
            BlockByBlock(scorer, streamed.passes, states).advance(setting, plan)
        cost = streaming_cost(model_config(model), streamed.n_params, Windows(3 * 20 * 128), 4)
        assert cost is not None and cost.blocks == streamed.n_blocks == 4
        assert cost.waiting == states.bytes_held
        # Norms and biases around the blocks are counted with them.
        assert cost.around + cost.block == pytest.approx(there, rel=0.02)


def test_no_more_than_one_block_is_there_beside_what_stands_around(asked):
    model = asked[0][0].model
    streamed = StreamedModel(model.checkpoint, torch.float32, "cpu")
    sizes = []
    for number in range(streamed.n_blocks):
        streamed.load(number)
        sizes.append(sum(p.nbytes for p in streamed.model.parameters() if not p.is_meta))
    assert len(set(sizes)) == 1 and sizes[0] < 4 * streamed.n_params


def test_what_bloom_176b_takes_at_16_settings():
    """As docs/streaming.md states it."""
    cost = streaming_cost(BLOOM_176B, 176_247_271_424, Windows(16 * 300_000, True), 2)
    assert cost is not None
    found = [cost.around, cost.block, cost.waiting, cost.hessians]
    assert [round(size / 2**30, 1) for size in found] == [6.7, 4.6, 128.2, 14.5]
    assert round(cost.moved / 2**40, 1) == 17.3


def test_models_that_do_not_fit_choose_it_by_themselves(asked, monkeypatch):
    compute = Compute(device="cpu")
    assert streamed_models(asked, compute, "cpu") == {}
    largest = max(e.model.n_params for e, _ in asked)
    monkeypatch.setattr(streaming_choice, "memory_of", lambda device: 6 * (largest - 1) / 0.9)
    [(name, why)] = streamed_models(asked, compute, "cpu").items()
    assert name in {e.model.name for e, _ in asked if e.model.n_params == largest}
    assert why == "takes 2.74 MiB, 3.04 MiB are there"
    untold = [
        (replace(e, model=e.model.model_copy(update={"n_params": None})), protocols)
        for e, protocols in asked
    ]
    assert streamed_models(untold, compute, "cpu") == {name: why}  # its files tell
    assert streamed_models(asked, Compute(device="cpu", streaming=False), "cpu") == {}
    assert len(streamed_models(asked, Compute(device="cpu", streaming=True), "cpu")) == 4
    monkeypatch.setattr(streaming_choice, "memory_of", lambda device: None)
    assert streamed_models(asked, compute, "cuda") == {}


def test_a_dry_run_says_what_it_takes(study, tmp_path, capsys):
    text = study.read_text().replace("device: cpu", "device: cpu\n  streaming: true")
    study.write_text(text)
    assert main(["sweep", str(study), "--dry-run", "--db", str(tmp_path / "none.db")]) == 0
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("streaming ")]
    assert len(lines) == 4
    assert all("2 settings through 4 blocks" in line and "wait" in line for line in lines)


def test_a_dry_run_of_a_hub_model_says_which_small_file_it_lacks(tmp_path, capsys, monkeypatch):
    bloom = next(m for family in load_models().values() for m in family if m.name == "bloom-176b")
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(STUDY | {
        "models": ["bloom-176b"], "compute": {"device": "cuda", "streaming": True},
    }))  # fmt: skip
    command = ["sweep", str(study), "--dry-run", "--db", str(tmp_path / "none.db")]
    cached = tmp_path / "models--bigscience--bloom" / "snapshots" / str(bloom.revision)
    cached.mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        assert main(command) == 0
        asks = f"hf download bigscience/bloom config.json --revision {bloom.revision}"
        assert asks in capsys.readouterr().out
        (cached / "config.json").write_text(json.dumps(BLOOM_176B))
        assert main(command) == 0
        assert "2 settings through 70 blocks, 11.3 GiB of weights" in capsys.readouterr().out
