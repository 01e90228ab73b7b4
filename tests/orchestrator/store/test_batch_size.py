"""The batch size is a matter of the model: one for all that is measured of an experiment."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evaluation.engine.scoring import TOKENS_PER_BATCH
from orchestrator.paths import ROOT
from orchestrator.run.worker import Worker
from orchestrator.store.store import Store
from orchestrator.study.grid import expand
from orchestrator.study.job import Job
from orchestrator.study.models import load_models
from orchestrator.study.spec import Corpus, Grid, Sweep
from orchestrator.sweep import main


@pytest.fixture
def job() -> Job:
    if not (ROOT / "models" / "sotu-neox-32x2" / "model.safetensors").exists():
        pytest.skip("the embedded model sotu-neox-32x2 is not there")
    sweep = Sweep(
        name="batches",
        models=["sotu-neox-32x2"],
        grids=[Grid(bits=4, data_type="float", block_size=64)],
        corpora=[Corpus(name="sotu", max_tokens=3000), Corpus(name="sotu", max_tokens=6000)],
    )
    plan = expand(sweep, load_models(ROOT / "models.yaml"), Path("batches"), on_gpu=False)
    (experiment,) = plan.experiments
    return Job(experiment, plan.protocols[experiment.model.name], "cpu", 1)


def test_memory_that_runs_out_on_the_way_has_all_of_the_experiment_scored_again(job):
    worker = Worker()
    first = worker.run(job)
    assert first.status == "done", first.error
    assert first.tokens_per_batch == TOKENS_PER_BATCH["cpu"]
    model, calls = worker._calibrated.resident.model, []

    def refuse_later(module, args, kwargs):
        calls.append(kwargs["input_ids"].numel())
        if len(calls) > 2 and calls[-1] > 600:
            raise torch.OutOfMemoryError

    hook = model.base_model.register_forward_pre_hook(refuse_later, with_kwargs=True)
    halved = worker.run(job)
    hook.remove()
    assert halved.status == "done", halved.error
    assert halved.tokens_per_batch == worker._engine.tokens_per_batch == 512
    again = worker.run(job)
    assert [m for _, m in again.measurements] and len(halved.measurements) == len(job.protocols)
    for (_, one), (_, other), (_, before) in zip(
        halved.measurements, again.measurements, first.measurements, strict=True
    ):
        assert one.metrics == other.metrics  # bit for bit those of small batches from the start
        assert one.metric("cross_entropy").value == pytest.approx(
            before.metric("cross_entropy").value, rel=1e-5
        )


class Crowded(Worker):
    """After its first experiment it has memory for 600 positions at most."""

    def run(self, job: Job):
        result = super().run(job)
        if not getattr(self, "crowded", False):
            self.crowded = True
            base = self._calibrated.resident.model.base_model
            base.register_forward_pre_hook(refuse, with_kwargs=True)
        return result


def refuse(module, args, kwargs):
    if kwargs["input_ids"].numel() > 600:
        raise torch.OutOfMemoryError


def test_what_a_model_scored_before_its_memory_ran_out_is_scored_again(tmp_path, capsys):
    sweep = tmp_path / "crowded.yaml"
    sweep.write_text(
        "models: sotu-neox-32x2\ngrids: [{bits: 16}, {bits: [3, 4]}]\n"
        "corpora: [{name: sotu, max_tokens: 3000}]\ncompute: {device: cpu}\n"
    )
    db = str(tmp_path / "crowded.db")
    asked = [str(sweep), "--db", db, "--executor", "local"]
    assert main(asked, worker=Crowded) == 0
    assert "1 experiments again in smaller batches" in capsys.readouterr().out
    store = Store.open(f"sqlite:///{db}")
    attempts = store.attempts()
    sizes = attempts["tokens_per_batch"].tolist()
    assert sizes == [TOKENS_PER_BATCH["cpu"], 512, 512, 512]
    assert list(attempts["status"]) == ["outgrown", "done", "done", "done"]
    assert attempts["experiment_id"].iloc[0] == attempts["experiment_id"].iloc[3]
    assert len(store.stored_measurements()) == 3

    assert main(asked) == 0  # a worker with room, later: nothing is left to do
    assert "3 stored, 0 to do" in capsys.readouterr().out
    sweep.write_text(sweep.read_text().replace("[3, 4]", "[3, 4, 5]"))
    assert main(asked) == 0  # and what is new has the same small batches
    assert store.attempts()["tokens_per_batch"].iloc[-1] == 512
