"""Scores block by block are those of the model that is whole in memory, bit for bit."""

import numpy as np
import pytest
import torch

from evaluation.engine import scoring
from evaluation.engine.block_by_block import BlockByBlock
from evaluation.engine.hidden_states import HiddenStates
from evaluation.engine.scoring import Scorer
from evaluation.engine.sequences import Sequences
from quantizers.checkpoint import UnusableModel
from quantizers.loading import load_model
from quantizers.resident import ResidentModel
from quantizers.setting import Setting
from quantizers.size import StoredSize
from quantizers.streamed_model import StreamedModel
from tests.quantizers.tiny_models import KNOWN, VOCAB, saved_checkpoint

CONTEXT = 24
SETTINGS = [
    Setting.make(bits=16),
    Setting.make(bits=4, data_type="float", block_size=16),
    Setting.make(bits=3, data_type="int", block_size=32, outlier_fraction=0.1),
    Setting.make(bits=3, data_type="quantile", block_size=64, scope="all"),
    Setting.make(bits=8, data_type="int", block_size="row", activations={"token": 8}),
]


def sequences(count: int) -> Sequences:
    """Some of which begin alike."""
    random = np.random.default_rng(0)
    stems = [random.integers(2, VOCAB, 8).tolist() for _ in range(count // 4)]
    pairs = []
    for i in range(count):
        ends = random.integers(2, VOCAB, int(random.integers(2, 16))).tolist()
        pairs.append((stems[i % len(stems)] + ends, len(ends) - 1))
    return Sequences.of(pairs)


def resident_scores(checkpoint, asked):
    model, _ = load_model(checkpoint, "cpu")
    resident = ResidentModel(model)
    scorer = Scorer(model, CONTEXT)
    found = []
    for setting in SETTINGS:
        bits = resident.apply(setting)
        found.append((scorer.score(asked), bits))
    return found, scorer


def streamed_scores(checkpoint, asked, folder, budget, device="cpu"):
    streamed = StreamedModel(checkpoint, torch.float32, device)
    scorer = Scorer(streamed.model, CONTEXT)
    states = HiddenStates(folder, budget)
    walk, around = BlockByBlock(scorer, streamed.passes, states), streamed.around()
    plan, sizes = scorer.plan(asked), [StoredSize(setting) for setting in SETTINGS]
    found = []
    last = streamed.n_blocks - 1
    for number in range(streamed.n_blocks):
        block = streamed.load(number)
        for i, setting in enumerate(SETTINGS):
            block.put(setting, sizes[i])
            if number in (0, last):
                around.put(setting, sizes[i] if number == 0 else StoredSize(setting))
            if number < last:
                walk.advance(i, plan)
            else:
                n_linear = streamed.wiring.n_linear
                bits = sizes[i].model_bits(streamed.n_params, n_linear)
                found.append((walk.finish(i, plan, True), bits))
            block.undo()
            around.undo()
    assert states.bytes_held == 0 and not list(folder.glob("*"))
    return found, scorer


@pytest.mark.parametrize("architecture", KNOWN)
def test_scores_and_sizes_are_those_of_the_resident_model(architecture, tmp_path, monkeypatch):
    monkeypatch.setitem(scoring.TOKENS_PER_BATCH, "cpu", 96)
    checkpoint = saved_checkpoint(architecture, tmp_path / "model")
    asked = sequences(40)
    expected, whole = resident_scores(checkpoint, asked)
    found, scorer = streamed_scores(checkpoint, asked, tmp_path / "states", 20_000)
    assert scorer.layout == whole.layout
    for (scores, bits), (wanted, wanted_bits) in zip(found, expected, strict=True):
        assert np.array_equal(scores.logprob, wanted.logprob)
        assert np.array_equal(scores.greedy, wanted.greedy)
        assert bits == wanted_bits


def test_threads_share_out_batches_as_they_do_of_a_resident_model(tmp_path, monkeypatch):
    monkeypatch.setitem(scoring.TOKENS_PER_BATCH, "cpu", 96)
    checkpoint = saved_checkpoint("bloom", tmp_path / "model")
    asked = sequences(60)
    torch.set_num_threads(3)
    try:
        expected, _ = resident_scores(checkpoint, asked)
        found, _ = streamed_scores(checkpoint, asked, tmp_path / "states", 0)
    finally:
        torch.set_num_threads(1)
    for (scores, _), (wanted, _) in zip(found, expected, strict=True):
        assert np.array_equal(scores.logprob, wanted.logprob)


def test_an_architecture_whose_blocks_are_not_known_is_refused(tmp_path):
    checkpoint = saved_checkpoint("gemma", tmp_path / "model")
    with pytest.raises(UnusableModel, match="model gemma: streaming: .*'gemma'"):
        StreamedModel(checkpoint, torch.float32, "cpu")
