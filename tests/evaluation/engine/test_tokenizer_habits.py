"""Tokenizers disagree on leading spaces and special tokens: scores follow the harness's HFLM for
each habit of the families that are studied."""

from __future__ import annotations

import numpy as np
import pytest
from lm_eval.api.instance import Instance
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from evaluation.engine.engine import Engine
from evaluation.engine.language_model import LanguageModel
from tests.evaluation.peers import make_peer
from tests.evaluation.tiny_models import CONTEXT, TEXT, VOCAB, tiny_model

# family whose habit it is: splitting of words, BOS, EOS, the special token put in front (if any)
HABITS = {
    "neox: one end-of-text token, never added": ("bytes", None, "<|endoftext|>", None),
    "gpt2: BOS is EOS, never added": ("bytes", "<|endoftext|>", "<|endoftext|>", None),
    "opt: BOS is EOS, added in front": ("bytes", "</s>", "</s>", "</s>"),
    "bloom: a BOS that is never added": ("bytes", "<s>", "</s>", None),
    "llama: BOS added, words begin with a space mark": ("metaspace", "<s>", "</s>", "<s>"),
    "a space put before the first word": ("spaced bytes", "<s>", "</s>", None),
}
PAIRS = [
    ("The state of the", " Union"),
    ("The state of the ", "Union"),  # the space moves over
    ("The state of the", "Union"),  # no space at all
    ("The state of the\n", " Union"),
    ("The st", "ate of the"),  # merges with the context's last token
    ("The state", "'s debt"),
    ("We shall meet the", "  challenge"),
    ("", "The state of"),
    ("", " The state of"),
    ("naï", "vely"),
    (TEXT, " and courage"),  # cut on the left
]


def make_tokenizer(kind: str, bos: str | None, eos: str, prefix: str | None):
    if kind == "metaspace":
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token=eos))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
        alphabet = []
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=kind != "bytes")
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = list(dict.fromkeys(token for token in (bos, eos) if token))
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    if prefix:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{prefix} $A", special_tokens=[(prefix, special.index(prefix))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, clean_up_tokenization_spaces=False
    )


def requests_of(tokenizer) -> list[Instance]:
    prefix = tokenizer.bos_token or tokenizer.eos_token
    pairs = [*PAIRS, ("", f"{prefix}The state"), (f"{prefix}The state of", " the Union")]
    return [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]


@pytest.mark.parametrize("habit", HABITS)
def test_scores_are_those_of_the_harness(habit):
    model, tokenizer = tiny_model("llama"), make_tokenizer(*HABITS[habit])
    requests = requests_of(tokenizer)
    ours = LanguageModel(Engine(model, tokenizer)).loglikelihood(requests)
    theirs = make_peer("hflm", model, tokenizer, CONTEXT).loglikelihood(requests, True)
    np.testing.assert_allclose([v for v, _ in ours], [v for v, _ in theirs], atol=1e-4, rtol=1e-6)
    assert [g for _, g in ours] == [g for _, g in theirs]
    texts = [Instance("loglikelihood_rolling", {}, (t,), i) for i, t in enumerate([TEXT, " hi"])]
    ours = LanguageModel(Engine(model, tokenizer)).loglikelihood_rolling(texts)
    theirs = make_peer("hflm", model, tokenizer, CONTEXT).loglikelihood_rolling(texts, True)
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-6)


def test_the_habits_differ():
    ids = {
        tuple(make_tokenizer(*habit)("The state of").input_ids)
        for name, habit in HABITS.items()
        if not name.startswith(("gpt2", "bloom"))  # these differ in an empty context only
    }
    assert len(ids) == len(HABITS) - 2
