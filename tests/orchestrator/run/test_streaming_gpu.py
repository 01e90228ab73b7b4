"""`compute: {streaming: true}` on a GPU: its memory, its pinned buffers, memory that runs out."""

import numpy as np
import pytest
import torch

from evaluation.engine import hidden_states
from orchestrator.run.device import memory_of
from orchestrator.run.through_blocks import ThroughBlocks
from tests.orchestrator.run.test_streaming import rows, swept
from tests.orchestrator.run.test_streaming_stand_ins import ATTEMPTS, failing

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_the_driver_says_how_much_memory_there_is():
    assert memory_of("cuda") == torch.cuda.get_device_properties(0).total_memory


def test_streamed_rows_are_those_of_resident_models_to_rounding(tmp_path, monkeypatch):
    on_cpu, pinned = hidden_states._on_cpu, []
    monkeypatch.setattr(
        hidden_states, "_on_cpu", lambda states: (pinned.append(on_cpu(states)), pinned[-1])[1]
    )
    resident = swept(tmp_path / "resident", "{device: cuda, streaming: false}").results()
    streamed = swept(tmp_path / "streamed", "{device: cuda, streaming: true}").results()
    assert pinned and all(states.is_pinned() for states in pinned)
    assert list(resident["experiment_id"]) == list(streamed["experiment_id"])
    loss = resident["metric"] == "cross_entropy"
    np.testing.assert_allclose(resident["value"][loss], streamed["value"][loss], atol=2e-3)


def test_memory_that_really_runs_out_makes_for_smaller_batches(tmp_path, monkeypatch):
    walk, failed = ThroughBlocks.run, []

    def run(self, progress):
        if not failed:
            failed.append(True)
            torch.empty(2**45, dtype=torch.uint8, device="cuda")
        walk(self, progress)

    monkeypatch.setattr(ThroughBlocks, "run", run)
    attempts = rows(swept(tmp_path / "small", "{device: cuda, streaming: true}"), ATTEMPTS)
    sizes = sorted(attempts["tokens_per_batch"].unique())
    assert len(sizes) == 2 and sizes[1] == 2 * sizes[0]


def test_after_an_error_of_cuda_nothing_more_is_computed(tmp_path, monkeypatch):
    failing(monkeypatch, RuntimeError("CUDA error: made up"), 10**9)
    store = swept(tmp_path / "lost", "{device: cuda, streaming: true}", code=3)
    assert store.results().empty
