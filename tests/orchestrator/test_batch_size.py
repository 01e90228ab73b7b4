"""The batch size is a matter of the model: one for all that is measured of an experiment."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evaluation.scoring import TOKENS_PER_BATCH, tokens_per_batch
from orchestrator.grid import expand
from orchestrator.job import Job
from orchestrator.models import load_models
from orchestrator.paths import ROOT
from orchestrator.spec import Corpus, Grid, Sweep
from orchestrator.worker import Worker


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
    assert first.versions["tokens_per_batch"] == str(TOKENS_PER_BATCH["cpu"])
    model, calls = worker._resident.model, []

    def refuse_later(module, args, kwargs):
        calls.append(kwargs["input_ids"].numel())
        if len(calls) > 2 and calls[-1] > 600:
            raise torch.OutOfMemoryError

    hook = model.base_model.register_forward_pre_hook(refuse_later, with_kwargs=True)
    halved = worker.run(job)
    hook.remove()
    assert halved.status == "done", halved.error
    assert halved.versions["tokens_per_batch"] == str(tokens_per_batch(model)) == "512"
    again = worker.run(job)
    assert [m for _, m in again.measurements] and len(halved.measurements) == len(job.protocols)
    for (_, one), (_, other), (_, before) in zip(
        halved.measurements, again.measurements, first.measurements, strict=True
    ):
        assert one.metrics == other.metrics  # bit for bit those of small batches from the start
        assert one.metric("cross_entropy").value == pytest.approx(
            before.metric("cross_entropy").value, rel=1e-5
        )
