import json
from dataclasses import replace

import pytest
import torch

from evaluation.calibration_text import CalibrationText, calibration_windows
from evaluation.sotu.corpus import heldout_addresses
from tests.evaluation.tiny_models import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


DOCUMENTS = [f"document {i}: " + " ".join(f"{i} or {j}" for j in range(20)) for i in range(40)]


@pytest.fixture
def jsonl(tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
    return CalibrationText(str(path), windows=6, length=32, seed=3)


def test_windows_are_cut_from_joined_documents_without_padding(jsonl, tokenizer):
    windows = calibration_windows(jsonl, tokenizer, 1000)
    assert windows.shape == (6, 32) and windows.dtype == torch.int64
    assert len(windows.unique(dim=0)) == 6
    known = {i for text in DOCUMENTS for i in tokenizer(text, add_special_tokens=False).input_ids}
    assert set(windows.flatten().tolist()) <= known | {tokenizer.eos_token_id}
    many = calibration_windows(replace(jsonl, windows=60), tokenizer, 1000)
    assert (many == tokenizer.eos_token_id).any()  # documents end within windows


def test_the_same_seed_gives_the_same_windows(jsonl, tokenizer):
    windows = calibration_windows(jsonl, tokenizer, 1000)
    assert torch.equal(windows, calibration_windows(jsonl, tokenizer, 1000))
    assert not torch.equal(windows, calibration_windows(replace(jsonl, seed=4), tokenizer, 1000))


def test_one_long_document_is_sampled_all_over(tmp_path, tokenizer):
    path = tmp_path / "text.txt"
    path.write_text(" ".join(f"{i} is a number" for i in range(3000)))
    text = CalibrationText(str(path), windows=8, length=16)
    ids = tokenizer(path.read_text(), add_special_tokens=False).input_ids
    starts = []
    for window in calibration_windows(text, tokenizer, 1000).tolist():
        starts += [i for i in range(0, len(ids), 16) if ids[i : i + 16] == window]
    assert min(starts) < len(ids) / 3 and max(starts) > 2 * len(ids) / 3


def test_random_tokens_cover_the_vocabulary(tokenizer):
    text = CalibrationText("random", windows=64, length=64, seed=1)
    windows = calibration_windows(text, tokenizer, 50)
    assert windows.shape == (64, 64) and windows.unique().tolist() == list(range(50))
    assert torch.equal(windows, calibration_windows(text, tokenizer, 50))


def test_sotu_is_what_is_not_scored(tokenizer):
    text = CalibrationText("sotu", windows=2, length=64)
    for window in calibration_windows(text, tokenizer, 1000):
        ids = [i for i in window.tolist() if i != tokenizer.eos_token_id]
        words = tokenizer.decode(ids).strip()[20:120]
        assert len(words) > 50 and not any(words in address for address in heldout_addresses())


def test_too_short_a_text_is_one_line(jsonl, tokenizer):
    with pytest.raises(ValueError, match=r"calibration: .*text\.jsonl has \d+ tokens, 999 windows"):
        calibration_windows(replace(jsonl, windows=999), tokenizer, 1000)
