"""Training: the recipe's ladder, a short real run, resuming, and the shipped models."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from evaluation.sotu_corpus import heldout_addresses, training_addresses
from orchestrator.paths import ROOT
from training.recipe import ARCHITECTURES, LADDER, Recipe, ladder_recipe
from training.tokenizer import load_tokenizer
from training.train import learning_rate_at, train

MODELS = ROOT / "models"


def manifests(family: str) -> list[dict]:
    found = [
        json.loads((MODELS / f"{family}-{h}x{n}/manifest.json").read_text()) for h, n in LADDER
    ]
    return sorted(found, key=lambda m: m["linear_params"])


def test_every_tenth_address_is_held_out():
    train_set, held_out = training_addresses(), heldout_addresses()
    assert len(held_out) == (len(train_set) + len(held_out)) // 10
    assert not set(train_set) & set(held_out)


def test_schedule_warms_up_and_decays_to_a_tenth():
    recipe = replace(ladder_recipe("sotu-opt-32x2"), steps=1000, warmup_steps=10)
    rates = [learning_rate_at(s, recipe) for s in range(1000)]
    assert rates[0] == pytest.approx(recipe.learning_rate / 10)
    assert max(rates) == pytest.approx(recipe.learning_rate)
    assert rates[-1] == pytest.approx(recipe.learning_rate / 10, rel=1e-2)


@pytest.mark.parametrize("name", ["sotu-neox-32x2", "sotu-opt-32x2"])
def test_short_run_learns_and_is_reproducible(tmp_path, name):
    recipe = replace(ladder_recipe(name), steps=12, warmup_steps=4, batch_size=4, context=64)
    tokenizer = load_tokenizer(MODELS / "tokenizer")
    quiet = lambda message: None  # noqa: E731
    first = train(recipe, tokenizer, tmp_path / "a", log=quiet)
    again = train(Recipe.from_dict(first["recipe"]), tokenizer, tmp_path / "b", log=quiet)
    assert first["heldout_loss"] < 7.6  # ln 2048 = 7.62
    assert again["sha256"] == first["sha256"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    assert model.get_input_embeddings().weight is not model.get_output_embeddings().weight


@pytest.mark.parametrize("family", ARCHITECTURES)
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


def test_shipped_weights_fit_in_16_megabytes():
    total = sum(path.stat().st_size for path in MODELS.glob("*/model.safetensors"))
    assert total <= 16_000_000


def test_unknown_rung_is_refused():
    with pytest.raises(ValueError, match="known: sotu-neox-32x2"):
        ladder_recipe("sotu-neox-33x2")


def test_no_checkpoint_is_left_behind():
    assert not list(Path(MODELS).glob("*/checkpoint*"))
