"""Loading models.yaml: what a user writes, and what they get wrong."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from orchestrator.errors import InputError, ModelInputError
from orchestrator.models import load_models


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "models.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def local_model(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    save_file({"w": torch.arange(64.0)}, folder / "model.safetensors")
    return folder


def entry(path: Path):
    return next(iter(load_models(path).values()))[0]


def test_three_lines_add_a_local_directory(tmp_path, local_model):
    path = write(tmp_path, "families:\n  mine:\n    models: [{name: mine, path: mine}]\n")
    assert entry(path).source == str(local_model)
    assert entry(path).checked_revision().startswith("local-")


def test_family_keys_are_defaults_for_its_models(tmp_path):
    path = write(
        tmp_path,
        "families:\n  f:\n    dtype: bfloat16\n    models:\n"
        "      - {name: a, hub: x/a}\n      - {name: b, hub: x/b, dtype: float16}\n",
    )
    a, b = load_models(path)["f"]
    assert (a.dtype, b.dtype) == ("bfloat16", "float16")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("families: [", "not valid YAML"),
        ("models: {}", "families"),
        ("families: {f: {models: [{name: a, hub: x, size: 3}]}}", r"models\.0\.size: unknown key"),
        ("families: {f: {models: [{name: a}]}}", "exactly one of hub and path"),
        ("families: {f: {models: [{name: a, hub: x, path: y}]}}", "exactly one of hub and path"),
        ("families: {f: {models: [{name: a, hub: x, dtype: int8}]}}", "dtype"),
        ("families: {f: {models: [{name: a, hub: x}, {name: a, hub: y}]}}", "already"),
    ],
)
def test_bad_file_is_one_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as error:
        load_models(write(tmp_path, text))
    assert "\n" not in str(error.value)


def test_missing_and_truncated_weights_are_named(tmp_path, local_model):
    path = write(tmp_path, "families:\n  mine:\n    models: [{name: mine, path: mine}]\n")
    weights = local_model / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-5])
    with pytest.raises(ModelInputError, match="model.safetensors is truncated"):
        entry(path).checked_revision()
    weights.write_bytes(content[:4])
    with pytest.raises(ModelInputError, match="truncated"):
        entry(path).checked_revision()
    weights.unlink()
    with pytest.raises(ModelInputError, match="missing"):
        entry(path).checked_revision()


def test_fingerprint_follows_the_weights(tmp_path, local_model):
    path = write(tmp_path, "families:\n  mine:\n    models: [{name: mine, path: mine}]\n")
    before = entry(path).checked_revision()
    assert entry(path).checked_revision() == before
    save_file({"w": torch.arange(64.0) + 1}, local_model / "model.safetensors")
    assert entry(path).checked_revision() != before
