"""Each paper's sweep from file to document, its models replaced by tiny ones of their kind."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from orchestrator.paths import ROOT
from tests.kbit.command import kbit
from tests.quantizers.tiny_models import CONFIGS

TOKENIZER = ROOT / "models" / "tokenizer"
CONTEXT = 32
# Sweep -> family -> the model that stands for it, and its architecture.
MODELS = {
    "gptq": {
        "opt": ("opt-125m", "opt"),
        "pythia": ("pythia-70m", "gpt_neox"),
        "gpt2": ("gpt2", "gpt2"),
        "bloom": ("bloom-560m", "bloom"),
    },
    "fptq": {
        "bloom": ("bloom-7b1", "bloom"),
        "llama": ("llama-7b", "llama"),
        "llama-2": ("llama-2-7b", "llama"),
    },
    "fptq-ranges": {
        "opt": ("opt-66b", "opt"),
        "bloom": ("bloom-176b", "bloom"),
        "llama": ("llama-65b", "llama"),
    },
    "w8a8-methods": {"opt": ("opt-66b", "opt"), "bloom": ("bloom-176b", "bloom")},
}


def tiny_models(folder: Path, models: dict[str, tuple[str, str]]) -> Path:
    """A models.yaml of random models of these names."""
    families = {}
    for seed, (family, (name, architecture)) in enumerate(models.items()):
        torch.manual_seed(seed)
        config = CONFIGS[architecture]()
        config.vocab_size, config.num_hidden_layers = 2048, 2
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
        entry = {"name": name, "path": name, "tokenizer": str(TOKENIZER), "context": CONTEXT}
        families[family] = {"models": [entry]}
    listing = folder / "models.yaml"
    listing.write_text(yaml.safe_dump({"families": families}))
    return listing


def small_sweep(folder: Path, name: str) -> Path:
    """The sweep's own grids, on little text that is here."""
    content = yaml.safe_load((ROOT / "sweeps" / f"{name}.yaml").read_text())
    for calibration in content["calibrations"].values():
        corpus = calibration["corpus"]
        calibration |= {"corpus": corpus if corpus == "random" else "sotu"}
        calibration |= {"windows": 4, "length": 16}
    content["models"] = [model for model, _ in MODELS[name].values()]
    content |= {"tasks": "sotu" if name == "fptq" else [], "limit": 2}
    content["corpora"] = [{"name": "sotu", "max_tokens": 4 * CONTEXT}]
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def document(folder: Path, name: str, paper: str) -> str:
    listing, sweep = tiny_models(folder, MODELS[name]), small_sweep(folder, name)
    code, out, err = kbit("sweep", sweep, "--models", listing, "--db", folder / "s.db",
                          "--executor", "local")  # fmt: skip
    assert code == 0 and "0 failed" in out, out + err
    asked = ["study", folder / "study", "--paper", paper, "--db", folder / "s.db", "--text-only"]
    code, out, err = kbit(*asked)
    assert code == 0, err
    text = (folder / "study.md").read_text()
    assert kbit(*asked[:4], "--text-only")[0] == 0  # from the kept files alone
    assert (folder / "study.md").read_text() == text
    return text


def headings(text: str) -> set[str]:
    return set(re.findall(r"^## (.+)$", text, flags=re.MULTILINE))


def test_one_shot_rounding(tmp_path: Path) -> None:
    text = document(tmp_path, "gptq", "gptq")
    assert "2-bit GPTQ in blocks beats 3-bit float" in headings(text)
    for name, _ in MODELS["gptq"].values():
        assert text.count(f"| {name}, sotu |") == 3  # table 1: three block sizes
    assert text.count("the paper's, on WikiText-2") == 3


def test_weights_and_activations(tmp_path: Path) -> None:
    text = document(tmp_path, "fptq", "fptq")
    assert {
        "FPTQ's W4A8 is within one percent of 16 bit",
        "Every part of FPTQ helps",
        "Random tokens calibrate as well as text",
        "GPTQ on top of FPTQ does not help",
        "Alpha 1 is the best suppression",
        "Inputs of the down projection span more than those of the attention output",
    } <= headings(text)
    rows = set(re.findall(r"^\| (\S+ \| [A-Z][^|]*) \|", text, flags=re.MULTILINE))
    methods = ("FP16", "SmoothQuant W8A8", "SmoothQuant W4A8", "FPTQ W4A8")
    assert {f"{m} | {method}" for m in ("bloom-7b1", "llama-7b") for method in methods} <= rows
    assert "llama-2-7b | SQ, fine-grained, FC2 a token" in rows
    assert "| llama-7b | random tokens | FPTQ W4A8 |" in text
    assert re.search(r"^\| llama-2-7b \| [\d.]+/[\d.]+ \|", text, flags=re.MULTILINE)  # table 8


@pytest.mark.parametrize("name", ["fptq-ranges", "w8a8-methods"])
def test_ranges_and_methods(name: str, tmp_path: Path) -> None:
    text = document(tmp_path, name, "fptq")
    shown = re.findall(r"^\| (\S+) \| [\d.]+/[\d.]+ \|", text, flags=re.MULTILINE)
    if name == "fptq-ranges":  # tables 8 and 9
        assert {shown.count(model) for model, _ in MODELS[name].values()} == {2}
    else:
        assert "12 experiments: 2 models at 6 precision settings" in text
