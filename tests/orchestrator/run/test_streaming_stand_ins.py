"""What streaming does on GPUs alone, on a machine without: their driver, their memory that runs out
and their errors are made up. tests/orchestrator/run/test_streaming_gpu.py asks a real one."""

import ctypes

import numpy as np
import pytest
import torch

from evaluation.engine.hidden_states import HiddenStates
from orchestrator.run import device as devices
from orchestrator.run import streaming_choice
from orchestrator.run.pool import _by_need
from orchestrator.run.streaming_choice import streamed_models
from orchestrator.run.through_blocks import ThroughBlocks
from orchestrator.study.experiment import Experiment
from orchestrator.study.job import Job
from orchestrator.study.models import ModelEntry
from orchestrator.study.spec import Compute
from quantizers.setting import Setting
from tests.orchestrator.run.test_streaming import rows, swept
from tests.quantizers.fake_devices import Elsewhere, device, fake_devices

ATTEMPTS = "SELECT status, error, tokens_per_batch, streamed FROM attempts"


def failing(monkeypatch, error, times):
    """The first walks, behind their first block, until there were so many."""
    walk, failed = ThroughBlocks.run, []

    def run(self, progress):
        if len(failed) < times:
            failed.append(self)
            self._through(self._courses[0], self._streamed.load(0), None, None)
            raise error
        walk(self, progress)

    monkeypatch.setattr(ThroughBlocks, "run", run)
    return failed


def test_where_memory_runs_out_all_settings_go_again_in_smaller_batches(tmp_path, monkeypatch):
    whole = swept(tmp_path / "whole", "{device: cpu, streaming: true}")
    failed = failing(monkeypatch, torch.OutOfMemoryError("made up"), 2)
    smaller = swept(tmp_path / "smaller", "{device: cpu, streaming: true}")
    assert len(failed) == 2
    sizes = [rows(store, ATTEMPTS)["tokens_per_batch"] for store in (whole, smaller)]
    assert sorted(sizes[1].unique()) == [sizes[0][0] // 4, sizes[0][0]]  # of the second model
    first, second = whole.results(), smaller.results()
    assert list(first["experiment_id"]) == list(second["experiment_id"])
    np.testing.assert_allclose(first["value"], second["value"], rtol=1e-4)


def test_memory_that_no_batch_is_small_enough_for_is_stored_as_failed(tmp_path, monkeypatch):
    failing(monkeypatch, torch.OutOfMemoryError("made up"), 10**9)
    store = swept(tmp_path / "none", "{device: cpu, streaming: true}", code=1)
    attempts = rows(store, ATTEMPTS)
    assert len(attempts) == 10 and set(attempts["status"]) == {"failed"}
    assert attempts["error"].str.contains("OutOfMemoryError: made up").all()


def test_after_an_error_of_cuda_nothing_more_is_computed(tmp_path, monkeypatch):
    failed = failing(monkeypatch, RuntimeError("CUDA error: an illegal access, made up"), 10**9)
    store = swept(tmp_path / "lost", "{device: cpu, streaming: true}", code=3)
    assert len(failed) == 1 and store.results().empty


def test_what_comes_from_a_gpu_waits_in_pinned_memory(tmp_path, monkeypatch):
    empty, pinned = torch.empty, []

    def recorded(*shape, pin_memory=False, **options):
        pinned.append(pin_memory)
        return empty(*shape, **options)

    monkeypatch.setattr(torch, "empty", recorded)
    states = HiddenStates(tmp_path, 60)
    with fake_devices():
        values = torch.arange(12.0, device=device(0))
        states.put("held", values)
        states.put("on disk", values + 1)
        for key, more in (("held", 0), ("on disk", 1)):
            found = states.take(key)
            assert not isinstance(found, Elsewhere) and torch.equal(
                found, torch.arange(12.0) + more
            )
    assert pinned.count(True) == 1, "what goes to the disk is not pinned"


class _Driver:
    """libcuda.so.1 of a machine with GPUs of 80 GiB."""

    def __init__(self, gpus, error=0):
        self.gpus, self.error = gpus, error

    def cuInit(self, _flags):
        return self.error

    def cuDeviceGetCount(self, count):
        count._obj.value = self.gpus
        return 0

    def cuDeviceGet(self, gpu, number):
        gpu._obj.value = number
        return self.error

    def cuDeviceTotalMem_v2(self, size, _gpu):
        size._obj.value = 80 * 2**30
        return 0


@pytest.mark.parametrize(
    ("driver", "bytes_of_one"),
    [(_Driver(2), 80 * 2**30), (_Driver(0), None), (_Driver(2, error=100), None)],
    ids=["two", "none", "broken"],
)
def test_memory_of_a_gpu_is_what_its_driver_says(monkeypatch, driver, bytes_of_one):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    assert devices.memory_of("cuda") == bytes_of_one
    assert devices.count_gpus() == (0 if driver.error else driver.gpus)


def test_no_driver_is_no_gpu(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert devices.memory_of("cuda") is None and devices.count_gpus() == 0


def experiment(**entry):
    model = ModelEntry(family="f", name="m", hub="m", **entry)
    return Experiment(model, "main", Setting.make(16), "float16")


@pytest.mark.parametrize(
    ("entry", "chosen"),
    [
        ({"n_params": 30_000_000_000}, False),
        ({"n_params": 40_000_000_000}, True),
        ({"n_params": 70_000_000_000, "gpus": 2}, False),
        ({"n_params": 20_000_000_000, "per_gpu": 2}, True),
        ({}, False),
    ],
    ids=str,
)
def test_a_model_streams_where_the_gpus_it_is_given_do_not_hold_it(monkeypatch, entry, chosen):
    monkeypatch.setattr(streaming_choice, "memory_of", lambda device: 80 * 2**30)
    assert bool(streamed_models([(experiment(**entry), [])], Compute(), "cuda")) == chosen


def test_a_streamed_model_takes_one_gpu_whatever_models_yaml_says():
    asked = experiment(gpus=6)
    jobs = [Job(asked, [], "cuda", 1, streamed=streamed) for streamed in (False, True)]
    assert [need["GPU"] for need, _ in _by_need(jobs)] == [6, 1]
