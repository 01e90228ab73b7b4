"""Training: a short real run, its kept checkpoints, and the shipped models."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from evaluation.sotu.corpus import heldout_addresses, training_addresses
from orchestrator.paths import ROOT
from training.ladder import LADDER
from training.recipe import Recipe
from training.shipped import heldout_loss
from training.text import load_text, token_streams
from training.tokenizer import load_tokenizer
from training.train import train

MODELS = ROOT / "models"
SHIPPED = ("sotu-neox", "sotu-opt", "sotu-llama", "sotu-bloom")


def quiet(line: str) -> None:
    pass


def manifests(family: str) -> list[dict]:
    found = [
        json.loads((MODELS / f"{family}-{h}x{n}/manifest.json").read_text()) for h, n in LADDER
    ]
    return sorted(found, key=lambda m: m["linear_params"])


def test_every_tenth_address_is_held_out():
    train_set, held_out = training_addresses(), heldout_addresses()
    assert len(held_out) == (len(train_set) + len(held_out)) // 10
    assert not set(train_set) & set(held_out)


@pytest.mark.parametrize("architecture", ["gpt_neox", "opt", "llama", "bloom", "gpt2"])
def test_short_run_learns_and_is_reproducible(
    tmp_path, tiny_recipe, tiny_tokenizer, text_folder, architecture
):
    recipe = replace(tiny_recipe, architecture=architecture)
    tokenizer, text = load_tokenizer(tiny_tokenizer), load_text(str(text_folder))
    first = train(recipe, tokenizer, tmp_path / "a", text, log=quiet)
    again = train(Recipe.from_dict(first["recipe"]), tokenizer, tmp_path / "b", text, log=quiet)
    assert first["heldout_loss"] < 4.5  # ln 300 = 5.70
    assert again["sha256"] == first["sha256"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    assert model.get_input_embeddings().weight is not model.get_output_embeddings().weight


@pytest.mark.slow  # minutes on one core
@pytest.mark.parametrize("name", ["sotu-neox-32x2", "sotu-llama-32x2"])
def test_a_shipped_manifest_reproduces_its_weights(tmp_path, name):
    manifest = json.loads((MODELS / name / "manifest.json").read_text())
    if manifest["versions"]["torch"] != torch.__version__:
        pytest.skip(f"trained with torch {manifest['versions']['torch']}")
    recipe = Recipe.from_dict(manifest["recipe"])
    again = train(recipe, load_tokenizer(MODELS / "tokenizer"), tmp_path, log=quiet)
    assert again["sha256"] == manifest["sha256"]


@pytest.mark.parametrize("family", SHIPPED)
def test_shipped_ladder(family):
    ladder = manifests(family)
    sizes = [m["linear_params"] for m in ladder]
    losses = [m["heldout_loss"] for m in ladder]
    assert len(ladder) >= 6
    assert sizes[-1] >= 30 * sizes[0]
    assert all(b <= 2.2 * a for a, b in zip(sizes, sizes[1:], strict=False))
    assert all(b < a for a, b in zip(losses, losses[1:], strict=False))
    for manifest in ladder:
        recipe = Recipe.from_dict(manifest["recipe"])
        folder = MODELS / f"{family}-{recipe.hidden_size}x{recipe.n_layers}"
        weights = folder / "model.safetensors"
        assert hashlib.sha256(weights.read_bytes()).hexdigest() == manifest["sha256"]
        tensors = load_file(weights)
        assert {t.dtype for t in tensors.values()} == {torch.float16}
        assert sum(t.numel() for t in tensors.values()) == manifest["n_params"]


def test_shipped_weights_fit_in_28_megabytes():
    total = sum(path.stat().st_size for path in MODELS.glob("*/model.safetensors"))
    assert total <= 28_000_000


def test_kept_checkpoints_are_whole_models_and_disturb_nothing(
    tmp_path, tiny_recipe, tiny_tokenizer, text_folder
):
    tokenizer, text = load_tokenizer(tiny_tokenizer), load_text(str(text_folder))
    plain = train(tiny_recipe, tokenizer, tmp_path / "plain", text, log=quiet)
    kept = train(tiny_recipe, tokenizer, tmp_path / "kept", text, keep=(10, 30), log=quiet)
    assert kept["sha256"] == plain["sha256"]
    folders = sorted(p.name for p in (tmp_path / "kept").iterdir() if p.is_dir())
    assert folders == ["step-000010", "step-000030"]
    early = json.loads((tmp_path / "kept/step-000010/manifest.json").read_text())
    assert early["step"] == 10 and early["tokens_seen"] == 10 * 4 * 32
    assert early["heldout_loss"] > kept["heldout_loss"] > 0
    AutoModelForCausalLM.from_pretrained(tmp_path / "kept/step-000010")


def test_heldout_loss_is_that_of_the_model_as_loaded(
    tmp_path, tiny_recipe, tiny_tokenizer, text_folder
):
    tokenizer, text = load_tokenizer(tiny_tokenizer), load_text(str(text_folder))
    recipe = replace(tiny_recipe, architecture="llama", dtype="bf16")
    manifest = train(recipe, tokenizer, tmp_path, text, log=quiet)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    stream = token_streams(text, tokenizer).heldout
    assert heldout_loss(model, stream, recipe.context) == pytest.approx(
        manifest["heldout_loss"], abs=1e-6
    )


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(
    tmp_path, tiny_recipe, tiny_tokenizer, text_folder
):
    recipe = replace(tiny_recipe, vocab_size=256)
    with pytest.raises(ValueError, match="vocab_size 256: the tokenizer has 300"):
        train(recipe, load_tokenizer(tiny_tokenizer), tmp_path, load_text(str(text_folder)))


def test_no_checkpoint_is_left_behind():
    assert not list(Path(MODELS).glob("*/checkpoint*"))
