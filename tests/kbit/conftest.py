"""A training study of seconds."""

import pytest
import yaml

WORDS = "the state of this union is strong and its people know that we have work to do"


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A function that writes a study of seconds, with changes, and returns its path."""
    monkeypatch.setenv("KBIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("training.memory.keep_freed_memory", lambda: None)  # for good, else
    monkeypatch.setattr("training.train.keep_freed_memory", lambda: None)
    (tmp_path / "text").mkdir()
    words = WORDS.split()
    for i in range(10):
        order = [words[(i * 7 + j * j) % len(words)] for j in range(300)]
        (tmp_path / f"text/{i}.txt").write_text(" ".join(order))

    def write(**changes):
        values = {
            "text": "text",
            "tokenizer": "out/tokenizer",
            "output": "out",
            "recipe": {
                "family": "neox",
                "size": "32x1",
                "steps": 12,
                "warmup_steps": 2,
                "batch_size": 2,
                "context": 32,
                "vocab_size": 280,
            },
            "variants": [{}, {"dropout": 0.1, "dtype": "fp16"}],
            "seeds": [0],
            "keep": [0.5],
        }
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump({**values, **changes}))
        return path

    return write
