"""models.yaml against the architectures it names: parameter counts are recounted, never trusted."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PretrainedConfig,
)

from orchestrator.paths import ROOT
from orchestrator.study.models import ModelEntry, load_models
from training.architectures import model_config
from training.ladder import LADDER, ladder_recipe

FAMILIES = load_models(ROOT / "models.yaml")
ENTRIES = {entry.name: entry for entries in FAMILIES.values() for entry in entries}

# Published hyper-parameters: hidden size, layers, heads (NeoX: and vocabulary, padded per size).
OPT = {
    "opt-125m": (768, 12, 12),
    "opt-350m": (1024, 24, 16),
    "opt-1.3b": (2048, 24, 32),
    "opt-2.7b": (2560, 32, 32),
    "opt-6.7b": (4096, 32, 32),
    "opt-13b": (5120, 40, 40),
    "opt-30b": (7168, 48, 56),
    "opt-66b": (9216, 64, 72),
    "opt-175b": (12288, 96, 96),
}
NEOX = {
    "pythia-70m": (512, 6, 8, 50304),
    "pythia-160m": (768, 12, 12, 50304),
    "pythia-410m": (1024, 24, 16, 50304),
    "pythia-1b": (2048, 16, 8, 50304),
    "pythia-1.4b": (2048, 24, 16, 50304),
    "pythia-2.8b": (2560, 32, 32, 50304),
    "pythia-6.9b": (4096, 32, 32, 50432),
    "pythia-12b": (5120, 36, 40, 50688),
    "gpt-neox-20b": (6144, 44, 64, 50432),
}
GPT2 = {
    "gpt2": (768, 12, 12),
    "gpt2-medium": (1024, 24, 16),
    "gpt2-large": (1280, 36, 20),
    "gpt2-xl": (1600, 48, 25),
}
BLOOM = {
    "bloom-560m": (1024, 24, 16),
    "bloom-1b1": (1536, 24, 16),
    "bloom-1b7": (2048, 24, 16),
    "bloom-3b": (2560, 30, 32),
    "bloom-7b1": (4096, 30, 32),
    "bloom-176b": (14336, 70, 112),
}
# Also the width of the MLP, and the heads of keys and values.
LLAMA = {
    "llama-7b": (4096, 32, 32, 11008, 32),
    "llama-13b": (5120, 40, 40, 13824, 40),
    "llama-65b": (8192, 80, 64, 22016, 64),
}
LLAMA_2 = {
    "llama-2-7b": (4096, 32, 32, 11008, 32),
    "llama-2-13b": (5120, 40, 40, 13824, 40),
    "llama-2-70b": (8192, 80, 64, 28672, 8),
}
BLOOMZ = {name.replace("bloom", "bloomz"): sizes for name, sizes in BLOOM.items()}
SOTU = {
    family: [f"{family}-{h}x{n}" for h, n in LADDER]
    for family in ("sotu-neox", "sotu-opt", "sotu-llama", "sotu-bloom")
}

EXPECTED = {
    **SOTU,
    "opt": list(OPT),
    "pythia": list(NEOX),
    "gpt2": list(GPT2),
    "bloom": list(BLOOM),
    "bloomz": list(BLOOMZ),
    "llama": list(LLAMA),
    "llama-2": list(LLAMA_2),
}


def published_config(name: str) -> PretrainedConfig:
    """The transformers configuration that the model's authors published."""
    if name in OPT:
        hidden, layers, heads = OPT[name]
        small = name == "opt-350m"  # post-norm, with projections around narrower embeddings
        return OPTConfig(
            vocab_size=50272,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            ffn_dim=4 * hidden,
            max_position_embeddings=2048,
            word_embed_proj_dim=512 if small else hidden,
            do_layer_norm_before=not small,
        )
    if name in NEOX:
        hidden, layers, heads, vocabulary = NEOX[name]
        return GPTNeoXConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * hidden,
            max_position_embeddings=2048,
            tie_word_embeddings=False,
        )
    if name in GPT2:
        hidden, layers, heads = GPT2[name]
        return GPT2Config(
            vocab_size=50257, n_positions=1024, n_embd=hidden, n_layer=layers, n_head=heads
        )
    if name in LLAMA | LLAMA_2:
        hidden, layers, heads, width, shared = (LLAMA | LLAMA_2)[name]
        return LlamaConfig(
            vocab_size=32000,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=width,
            num_key_value_heads=shared,
        )
    if name.startswith("sotu-"):
        return model_config(ladder_recipe(name), end_of_text_id=0)
    hidden, layers, heads = (BLOOM | BLOOMZ)[name]
    return BloomConfig(vocab_size=250880, hidden_size=hidden, n_layer=layers, n_head=heads)


def count_parameters(config: PretrainedConfig) -> int:
    """Parameters of the model, tied weights once. Built without memory on the meta device."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


def test_families_and_sizes_are_complete_and_in_order() -> None:
    assert {f: [entry.name for entry in entries] for f, entries in FAMILIES.items()} == EXPECTED


@pytest.mark.parametrize("name", [name for names in EXPECTED.values() for name in names])
def test_n_params_is_the_architectures(name: str) -> None:
    assert ENTRIES[name].n_params == count_parameters(published_config(name))


@pytest.mark.parametrize("family", list(EXPECTED))
def test_sizes_grow_within_a_family(family: str) -> None:
    sizes = [entry.n_params or 0 for entry in FAMILIES[family]]
    assert all(a < b for a, b in zip(sizes, sizes[1:], strict=False))


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=list(ENTRIES))
def test_gpus_hold_the_16_bit_weights_and_a_fifth_more(entry: ModelEntry) -> None:
    assert entry.n_params is not None
    assert entry.gpus == math.ceil(1.2 * 2 * entry.n_params / 80e9)


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=list(ENTRIES))
def test_hub_models_are_pinned_and_run_no_foreign_code(entry: ModelEntry) -> None:
    assert not entry.trust_remote_code
    if entry.hub is not None:
        assert re.fullmatch(r"main|[0-9a-f]{40}", entry.revision or "")


def test_no_source_or_revision_is_listed_twice() -> None:
    sources = [entry.source for entry in ENTRIES.values()]
    commits = [e.revision for e in ENTRIES.values() if e.revision not in (None, "main")]
    assert len(set(sources)) == len(sources)
    assert len(set(commits)) == len(commits)


def test_weight_format_and_dtype() -> None:
    """OPT on the hub is .bin; only the two 176B models are bfloat16."""
    hub_opt = {entry.name for entry in FAMILIES["opt"] if entry.hub}
    assert {n for n, entry in ENTRIES.items() if entry.weights == "bin"} == hub_opt
    bfloat16 = {n for n, entry in ENTRIES.items() if entry.dtype == "bfloat16"}
    assert bfloat16 == {"bloom-176b", "bloomz-176b"}


def test_the_three_lines_in_the_files_head_add_a_model(tmp_path: Path) -> None:
    head = (ROOT / "models.yaml").read_text().split("\nfamilies:\n")[0]
    example = re.search(r"^#( +mine:\n#.*\n#.*)$", head, flags=re.MULTILINE)
    assert example is not None
    lines = "\n".join(line.lstrip("#") for line in example.group().splitlines())
    path = tmp_path / "models.yaml"
    path.write_text(f"families:\n{lines}\n")
    (entry,) = load_models(path)["mine"]
    assert (entry.name, entry.path) == ("my-model", str(Path.home() / "models/my-model"))


@pytest.mark.parametrize("name", [name for names in SOTU.values() for name in names])
def test_embedded_models_lie_beside_models_yaml(name: str) -> None:
    entry = ENTRIES[name]
    assert entry.path == str(ROOT / "models" / name)
    assert entry.tokenizer == str(ROOT / "models" / "tokenizer")
