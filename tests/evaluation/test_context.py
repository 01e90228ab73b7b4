"""The context that is read when a sweep names none: the model's own."""

from __future__ import annotations

import pytest
from transformers import BloomConfig, GPT2Config, GPTNeoXConfig, OPTConfig

from evaluation.language_model import LanguageModel
from tests.evaluation.tiny_models import CONTEXT, tiny_model, tiny_tokenizer


@pytest.mark.parametrize(
    ("config", "tokens"),
    [(GPT2Config(), 1024), (OPTConfig(), 2048), (GPTNeoXConfig(), 2048), (BloomConfig(), 2048)],
)
def test_the_families_of_the_first_paper(config, tokens):
    model = tiny_model("gpt2")
    model.config = config
    assert LanguageModel(model, tiny_tokenizer()).max_length == tokens


def test_a_sweeps_own_context_wins():
    model, tokenizer = tiny_model("gpt2"), tiny_tokenizer()
    assert LanguageModel(model, tokenizer).max_length == CONTEXT
    assert LanguageModel(model, tokenizer, max_length=16).max_length == 16
