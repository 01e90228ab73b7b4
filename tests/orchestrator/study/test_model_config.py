"""What a model's config.json adds to its protocols: only where scores were wrong before."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from transformers import DogeConfig, LlamaConfig, Phi3Config

from evaluation.engine.model_config import mended, needs_bos
from orchestrator.paths import ROOT
from orchestrator.run.measuring import measure
from orchestrator.study.grid import expand, sweep_protocols
from orchestrator.study.model_config import model_config
from orchestrator.study.models import ModelEntry, load_models
from orchestrator.study.spec import Corpus, Grid, Sweep, load_sweep

PROTOCOLS_OF_THE_STUDY = "8fdf5b9df70e5bf5f92d71a3a9e726068fae8eff75e369f2fe28dc1820859d7a"
STUDY_FAMILIES = ("sotu-neox", "sotu-opt")
SMALL = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 300}
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8, "original_max_position_embeddings": 16,
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}


@pytest.mark.parametrize("sweep", ["demo", "embedded", "adaptive"])
def test_protocols_of_the_embedded_models_keep_their_ids(sweep):
    """At the study's 500 items a task, of which the demo takes fewer."""
    path = ROOT / "sweeps" / f"{sweep}.yaml"
    asked = load_sweep(path).model_copy(update={"limit": 500})
    plan = expand(asked, load_models(), path, on_gpu=False)
    ours = [plan.protocols[name] for name in plan.protocols if name.startswith(STUDY_FAMILIES)]
    ids = sorted({p.id for protocols in ours for p in protocols})
    assert hashlib.sha256("".join(ids).encode()).hexdigest() == PROTOCOLS_OF_THE_STUDY


@pytest.mark.parametrize(
    ("config", "cpu", "cuda"),
    [
        ({"model_type": "gpt_neox", "vocab_size": 2048}, {}, {}),
        ({"model_type": "opt", "vocab_size": 50272}, {"log_softmax": "exact"}, {}),
        ({"model_type": "phi3", "vocab_size": 300, "rope_scaling": {"type": "su"}},
         {"rows": "alone"}, {"rows": "alone"}),
        ({"model_type": "llama", "vocab_size": 300, "rope_scaling": None}, {}, {}),
        ({"model_type": "llama", "vocab_size": 300, "rope_scaling": {"type": "llama3"}}, {}, {}),
        ({"model_type": "x", "text_config": {"vocab_size": 300, "model_type": "doge"}},
         {"rows": "alone"}, {"rows": "alone"}),
        ({"model_type": "x", "vocab_size": 300,
          "rope_parameters": {"full": {"rope_type": "default"}, "far": {"rope_type": "dynamic"}}},
         {"rows": "alone"}, {"rows": "alone"}),
    ],
)  # fmt: skip
def test_what_protocols_say_of_a_model(config, cpu, cuda):
    assert mended(config, "cpu") == cpu and mended(config, "cuda") == cuda


def test_a_config_that_leaves_its_vocabulary_to_the_default_counts_as_a_large_one():
    assert mended({"model_type": "gpt2"}, "cpu") == {"log_softmax": "exact"}


@pytest.mark.parametrize(
    "config",
    [
        Phi3Config(
            **SMALL, pad_token_id=0, original_max_position_embeddings=16, rope_parameters=LONGROPE
        ),
        DogeConfig(**SMALL, pad_token_id=0),
        LlamaConfig(**SMALL, rope_parameters=DYNAMIC),
        LlamaConfig(**SMALL),
    ],
)  # fmt: skip
def test_the_file_says_what_the_loaded_model_says(config, tmp_path):
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert mended(written, "cpu") == mended(config.to_dict(), "cpu")


def entry_of(folder, **config) -> ModelEntry:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return ModelEntry(name="m", family="f", path=str(folder))


def settings_of(entry: ModelEntry, bos) -> dict:
    corpus = Corpus(name="sotu", max_tokens=100, bos=bos)
    sweep = Sweep(name="s", models=["m"], grids=[Grid(bits=4)], corpora=[corpus])
    (protocol,) = sweep_protocols(sweep, entry, on_gpu=True)
    return protocol.settings


@pytest.mark.parametrize(
    ("model_type", "bos", "begins"),
    [
        ("gemma", "auto", True), ("gemma3_text", "auto", True), ("gemma", False, False),
        ("llama", "auto", False), ("llama", True, True),
    ],
)  # fmt: skip
def test_bos_is_part_of_the_protocol_where_windows_begin_with_it(tmp_path, model_type, bos, begins):
    entry = entry_of(tmp_path / "model", model_type=model_type, vocab_size=300)
    settings = settings_of(entry, bos)
    assert settings.get("bos", False) is begins
    if not begins:
        assert settings == settings_of(entry_of(tmp_path / "other", model_type="opt"), "auto")


def test_a_hub_model_that_was_never_here_is_told_by_its_name(monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: None)
    config = model_config(ModelEntry(name="g", family="f", hub="google/Gemma-2b"))
    assert needs_bos(config) and mended(config, "cpu") == {"log_softmax": "exact"}


def test_a_worker_refuses_a_protocol_that_was_planned_without_the_config():
    class Engine:
        mended = {"rows": "alone"}

    (protocol, *_) = sweep_protocols(
        Sweep(name="s", models=["m"], grids=[Grid(bits=4)], corpora=[Corpus(name="sotu")]),
        ModelEntry(name="m", family="f", path="nowhere"),
        on_gpu=True,
    )
    with pytest.raises(ValueError, match="planned before the model's config.json was here"):
        measure(Engine(), protocol)  # type: ignore[arg-type]
    planned = replace(protocol, settings=protocol.settings | {"rows": "alone"})
    with pytest.raises(AttributeError):  # it goes on to score
        measure(Engine(), planned)  # type: ignore[arg-type]
