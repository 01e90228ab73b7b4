"""Keys and values in few bits where sequences share a prefix."""

import numpy as np
import pytest

from evaluation.engine.scoring import Scorer
from evaluation.engine.sequences import Sequences
from quantizers.resident import ResidentModel
from quantizers.setting import Setting
from tests.quantizers.tiny_models import VOCAB, tiny_model

STEM = [(7 * place + 3) % VOCAB for place in range(8)]
TEXTS = [(STEM + [(11 * i + 5 * place) % VOCAB for place in range(5)], 4) for i in range(6)]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_shared_prefix_has_the_cache_that_each_sequence_has_alone(name):
    resident = ResidentModel(tiny_model(name))
    scorer = Scorer(resident.model, 24)
    plain = scorer.score(Sequences.of(TEXTS)).logprob
    assert scorer.layout.pair_cost is not None  # trees are read
    resident.apply(Setting.make(8, "int", block_size="row", activations="token", kv="token"))
    together = scorer.score(Sequences.of(TEXTS)).logprob
    alone = np.concatenate([scorer.score(Sequences.of([text])).logprob for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=2e-3)
    assert np.abs(together - plain).max() > 2e-3
