"""A recipe and a text so small that a whole run takes a second."""

from pathlib import Path

import pytest

from training.recipe import Recipe
from training.tokenizer import train_tokenizer

SENTENCE = "the state of this union is strong and its people know that we have work to do"


@pytest.fixture(autouse=True)
def other_tests_memory_is_theirs(monkeypatch):
    """Freed memory is kept for good by the process that trains: not by the one that tests."""
    monkeypatch.setattr("training.train.keep_freed_memory", lambda: None)


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory) -> Path:
    """Twenty documents of pseudo-English."""
    folder, words = tmp_path_factory.mktemp("text"), SENTENCE.split()
    for i in range(20):
        order = [words[(i * 7 + j * j) % len(words)] for j in range(400)]
        (folder / f"{i:02d}.txt").write_text(" ".join(order) + ".\n")
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory, text_folder) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = [p.read_text() for p in sorted(text_folder.glob("*.txt"))]
    train_tokenizer(texts, folder, vocab_size=300, context=32)
    return folder


@pytest.fixture
def tiny_recipe() -> Recipe:
    return Recipe(
        architecture="gpt_neox",
        hidden_size=32,
        n_layers=1,
        learning_rate=1e-2,
        steps=40,
        warmup_steps=5,
        batch_size=4,
        context=32,
        vocab_size=300,
        seed=3,
    )
