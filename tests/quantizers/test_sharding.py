"""Which device each decoder block is put on, and that models are loaded so."""

from itertools import combinations_with_replacement

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizers import loading
from quantizers.loading import load_model
from quantizers.sharding import device_map, devices_of_blocks
from tests.quantizers.tiny_models import logits, saved_checkpoint, tiny_model

SIZES = st.lists(st.integers(1, 20), min_size=1, max_size=6)


def fullest(blocks, around, devices, n):
    held = [around] + [0] * (n - 1)
    for size, device in zip(blocks, devices, strict=True):
        held[device] += size
    return max(held)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(SIZES, st.integers(0, 30), st.integers(1, 4))
def test_the_fullest_device_holds_as_little_as_can_be(blocks, around, n):
    chosen = devices_of_blocks(blocks, around, n)
    assert chosen == sorted(chosen) and set(chosen) <= set(range(n))
    ways = combinations_with_replacement(range(n), len(blocks))
    best = min(fullest(blocks, around, way, n) for way in ways)
    assert fullest(blocks, around, chosen, n) == best


def test_large_embeddings_leave_the_first_device_without_blocks():
    assert devices_of_blocks([1, 1, 1, 1], 2, 3) == [1, 1, 2, 2]


def test_every_block_and_what_is_in_none_has_a_device():
    places = device_map(tiny_model("gpt_neox"), ["first", "second"])
    assert [places[f"gpt_neox.layers.{i}"] for i in range(3)] == ["first", "second", "second"]
    others = {name for name in places if "layers." not in name}
    assert {places[name] for name in others} == {"first"}
    around = ("embed_in", "final_layer_norm", "rotary_emb")
    assert others == {*(f"gpt_neox.{name}" for name in around), "lm_head"}


def test_a_model_without_blocks_is_refused_in_a_line():
    model = tiny_model("llama")
    model.config.num_hidden_layers = 7
    with pytest.raises(ValueError, match="no list of 7 decoder blocks"):
        device_map(model, ["first", "second"])


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_model_is_loaded_onto_its_devices(tmp_path, monkeypatch, name):
    """Of two names for the CPU. GPT-2's head is tied to its embeddings."""
    monkeypatch.setattr(loading, "gpus_of", lambda _: [torch.device("cpu"), "cpu"])
    checkpoint = saved_checkpoint(name, tmp_path, gpus=2)
    whole, _ = load_model(checkpoint, "cpu")
    model, _ = load_model(checkpoint, "cuda")
    assert torch.equal(logits(model.float()), logits(whole.float()))
    hooked = [n for n, module in model.named_modules() if module._forward_pre_hooks]
    assert len(hooked) == 3 + 3 + (name == "gpt2")  # blocks, embeddings, norm and head
    assert not any(hasattr(module, "_hf_hook") for module in model.modules())
    assert all("forward" not in vars(module) for module in model.modules())


def test_more_gpus_than_are_seen_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    checkpoint = saved_checkpoint("llama", tmp_path, gpus=2)
    with pytest.raises(loading.UnusableModel, match="needs 2 GPUs, this process sees 1"):
        load_model(checkpoint, "cuda")
