"""Loading models.yaml: what a user writes, and what they get wrong."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from orchestrator.errors import InputError, ModelInputError
from orchestrator.study.identity import identify
from orchestrator.study.models import load_models


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
    assert identify(entry(path)).revision.startswith("local-")


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
        ("families: {f: {models: []}}", "families.f.models: an empty list"),
        ("families: {f: {models: []},\n f: {models: []}}", "'f' is there twice: lines 1 and 2"),
        ("families: {f: {models: [{name: a, name: b, hub: x}]}}", "'name' is there twice"),
        ("families: {f: {models: [{hub: a, seed: 9223372036854775808}]}}", "line 1: 92.*large"),
        ("{families: {}, 1: 2, x: 3}", "1: unknown key"),
        ("families: {f: {models: [{name: a, hub: x, 3: y}]}}", r"models\.0\.3: a key is text"),
        ("families: {f: {models: [{name: a, path: x, revision: y}]}}", "revision: goes with hub"),
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
        identify(entry(path))
    weights.write_bytes(content[:4])
    with pytest.raises(ModelInputError, match="truncated"):
        identify(entry(path))
    weights.unlink()
    with pytest.raises(ModelInputError, match="missing"):
        identify(entry(path))


def test_a_tokenizer_of_another_content_is_another_experiment(tmp_path, local_model):
    def revision(tokenizer: str) -> str:
        text = f"families: {{f: {{models: [{{name: a, hub: x/a, {tokenizer}}}]}}}}"
        return identify(entry(write(tmp_path, text))).revision

    for name in ("one", "same", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vocab.json").write_text(name.replace("same", "one"))
    assert revision("revision: main") == revision("tokenizer: x/a") == "main"  # its own
    assert revision("tokenizer: one") == revision("tokenizer: same")
    named = ["revision: main", "tokenizer: one", "tokenizer: other", "tokenizer: x/b"]
    assert len({revision(tokenizer) for tokenizer in named}) == 4
    (tmp_path / "one" / "vocab.json").unlink()
    with pytest.raises(ModelInputError, match="tokenizer: .*one holds no tokenizer files"):
        revision("tokenizer: one")


@pytest.mark.parametrize(
    ("file", "counts"),
    [("config.json", True), ("tokenizer.json", True), ("modeling_mine.py", True),
     ("README.md", False)],
)  # fmt: skip
def test_fingerprint_follows_what_decides_scores(tmp_path, local_model, file, counts):
    path = write(tmp_path, "families:\n  mine:\n    models: [{name: mine, path: mine}]\n")
    before = identify(entry(path)).revision
    (local_model / file).write_text('{"changed": true}')
    assert (identify(entry(path)).revision != before) == counts


def test_fingerprint_sees_the_middle_of_the_weights(tmp_path, local_model):
    path = write(tmp_path, "families:\n  mine:\n    models: [{name: mine, path: mine}]\n")
    weights = torch.zeros(2 << 20)
    save_file({"w": weights}, local_model / "model.safetensors")
    before = identify(entry(path)).revision
    weights[1 << 20] = 1  # 4 MiB from either end
    save_file({"w": weights}, local_model / "model.safetensors")
    assert identify(entry(path)).revision != before


def test_fingerprint_follows_the_weights(tmp_path, local_model):
    path = write(tmp_path, "families:\n  mine:\n    models: [{name: mine, path: mine}]\n")
    before = identify(entry(path)).revision
    assert identify(entry(path)).revision == before
    save_file({"w": torch.arange(64.0) + 1}, local_model / "model.safetensors")
    assert identify(entry(path)).revision != before
