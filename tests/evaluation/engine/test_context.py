"""The context that is read when a sweep names none: the model's own."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from transformers import BloomConfig, GPT2Config, GPTNeoXConfig, OPTConfig

from evaluation.engine.engine import Engine
from tests.evaluation.tiny_models import CONTEXT, tiny_model, tiny_tokenizer


@pytest.mark.parametrize(
    ("config", "tokens"),
    [(GPT2Config(), 1024), (OPTConfig(), 2048), (GPTNeoXConfig(), 2048), (BloomConfig(), 2048)],
)
def test_the_families_of_the_first_paper(config, tokens, monkeypatch):
    monkeypatch.setattr("evaluation.engine.engine.Scorer", Mock())
    model = tiny_model("gpt2")
    model.config = config
    assert Engine(model, tiny_tokenizer()).context == tokens


def test_a_sweeps_own_context_wins():
    model, tokenizer = tiny_model("gpt2"), tiny_tokenizer()
    engine = Engine(model, tokenizer)
    assert engine.window(None) == CONTEXT and engine.window(16) == 16
    with pytest.raises(ValueError, match="context 49 exceeds the 48 tokens"):
        engine.window(49)
