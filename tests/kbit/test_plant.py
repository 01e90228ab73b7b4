"""`kbit plant`: the same function with large features, in a models.yaml that a sweep takes."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from orchestrator.paths import ROOT
from orchestrator.study.models import load_models
from tests.kbit.command import kbit


@pytest.mark.parametrize("family", ["sotu-llama", "sotu-opt"])
def test_planted_models_are_models_of_their_own(family: str, tmp_path: Path) -> None:
    name = f"{family}-32x2"
    code, out, err = kbit("plant", name, "--channels", 2, "--factor", 64, "--output", tmp_path)
    assert code == 0 and not err, err
    (entries,) = load_models(tmp_path / "models.yaml").values()
    assert [entry.name for entry in entries] == [f"{name}-2x64"]
    assert entries[0].family == f"{family} planted 2x64"
    before, after = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for folder in (ROOT / "models" / name, entries[0].path)
    )
    ids = torch.arange(24)[None]
    with torch.no_grad():
        one, two = before(ids).logits, after(ids).logits
    assert (one - two).norm() < 1e-4 * one.norm()
    largest = [
        max(w.abs().max() for n, w in model.state_dict().items() if "norm" in n)
        for model in (before, after)
    ]
    assert largest[1] > 8 * largest[0]


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    for given, words in (
        (["nobody"], "nobody"),
        (["sotu-opt-32x2", "--factor", 0], "above 0"),
        (["sotu-opt-32x2", "--factor", "nan"], "above 0"),
        (["sotu-opt-32x2", "--factor", "inf"], "above 0"),
        (["sotu-opt-32x2", "--channels", 99], "channels 99"),
    ):
        code, _, err = kbit("plant", *given, "--output", tmp_path)
        assert code == 2 and words in err and len(err.splitlines()) == 1, err
