"""A model on several devices has the scores that it has on one, bit for bit, at every kind of
setting. The devices are made up (see `fake_devices`): that nothing is computed on two at a time and
that the numbers are the same can be seen without GPUs, how fast it is cannot."""

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend

from evaluation.engine import abilities, scoring
from evaluation.engine.scoring import Scorer
from quantizers.calibration import collect
from quantizers.loading import load_model
from quantizers.resident import ResidentModel
from quantizers.setting import Setting
from quantizers.sharding import device_map, hand_on
from tests.evaluation.engine.test_block_by_block import (
    CONTEXT,
    SETTINGS,
    sequences,
    streamed_scores,
)
from tests.quantizers.fake_devices import device, fake_devices, place
from tests.quantizers.tiny_models import VOCAB, saved_checkpoint, tiny_model

ROW = {"data_type": "int", "block_size": "row"}
ANYWHERE = [
    Setting.make(16),
    Setting.make(3, "quantile", block_size=32, scope="all", centered=True),
]
GPTQ = [
    Setting.make(3, "int", block_size=16, rounding="gptq", calibration="text"),
    Setting.make(
        3, "int", block_size=16, rounding={"gptq": {"hessian": "sequential"}}, calibration="text"
    ),
]
WIRED = [
    Setting.make(3, "float", block_size=16, outlier_fraction=0.1),
    Setting.make(4, **ROW, folding="awq", activations="by_range", kv="tensor", calibration="text"),
    Setting.make(4, **ROW, folding="smoothquant", activations="tensor", calibration="text"),
    Setting.make(8, **ROW, activations="decomposed", kv="token"),
    Setting.make(4, **ROW, folding="hadamard", activations="token"),
]


@pytest.fixture(autouse=True)
def small_batches_of_plain_attention(monkeypatch):
    monkeypatch.setattr(abilities, "_GPU_ATTENTION", [SDPBackend.MATH])
    monkeypatch.setitem(scoring.TOKENS_PER_BATCH, "cuda", 128)


def scores(name, settings, n_devices):
    """Of every setting, and the devices that the blocks are on."""
    model = tiny_model(name, layers=2).to(torch.float16).float()
    with fake_devices():
        places = device_map(model, [device(number) for number in range(n_devices)])
        place(model, places)
        hand_on(model)
        resident = ResidentModel(model)
        windows = torch.arange(48).view(2, 24) % VOCAB
        statistics = {}
        if any(setting.needs_statistics for setting in settings):
            statistics = dict(collect(model, resident.wiring, windows))
        scorer = Scorer(model, CONTEXT)
        asked, found = sequences(8), []
        for setting in settings:
            bits = resident.apply(setting, statistics, windows=windows)
            found.append((scorer.score(asked), bits))
    return found, set(places.values())


@pytest.mark.parametrize(
    ("name", "settings"),
    [("gpt2", ANYWHERE + WIRED), ("llama", ANYWHERE + WIRED[-1:] + GPTQ)]
    + [(name, ANYWHERE) for name in ("opt-350m", "bloom", "falcon", "gemma")],
    ids=lambda value: value if isinstance(value, str) else "settings",
)
def test_scores_are_those_of_one_device(name, settings):
    alone, _ = scores(name, settings, 1)
    shared, used = scores(name, settings, 2)
    assert len(used) == 2
    for setting, (one, bits), (several, bits_of_several) in zip(
        settings, alone, shared, strict=True
    ):
        assert np.array_equal(one.logprob, several.logprob), setting.label
        assert np.array_equal(one.greedy, several.greedy) and bits == bits_of_several


def test_without_handing_on_a_model_on_two_devices_fails():
    model = tiny_model("llama", layers=2)
    with fake_devices():
        place(model, device_map(model, [device(0), device(1)]))
        with pytest.raises(RuntimeError, match="expected all tensors on one device"):
            model(torch.arange(8, device=device(0))[None])


@pytest.mark.parametrize("name", ["opt-350m", "llama"])
def test_a_streamed_model_on_a_device_has_the_scores_of_a_resident_one(tmp_path, monkeypatch, name):
    """What waits between blocks leaves the device, and comes back to it."""
    checkpoint, asked = saved_checkpoint(name, tmp_path / "model"), sequences(8)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *n, pin_memory=False, **rest: empty(*n, **rest))
    place_whole = device(0)
    with fake_devices():
        model, _ = load_model(checkpoint, "cpu")
        place(model, {part: place_whole for part, _ in model.named_children()})
        resident, scorer = ResidentModel(model), Scorer(model, CONTEXT)
        expected = []
        for setting in SETTINGS:
            resident.apply(setting)
            expected.append(scorer.score(asked))
        found, _ = streamed_scores(checkpoint, asked, tmp_path / "states", 2000, str(place_whole))
    for (scores, _), wanted in zip(found, expected, strict=True):
        assert np.array_equal(scores.logprob, wanted.logprob)
        assert np.array_equal(scores.greedy, wanted.greedy)
