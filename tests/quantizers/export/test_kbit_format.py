"""An exported directory, loaded by transformers, is the model that a sweep scored, bit for bit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoTokenizer, BertConfig

from kbit.on_import import register_format
from quantizers.checkpoint import Checkpoint, UnusableModel
from quantizers.export.conversion import export
from quantizers.export.kbit_format import KBitFormat
from quantizers.linear import KBitLinear
from quantizers.loading import load_model
from quantizers.packed_embedding import PackedTable
from quantizers.resident import ResidentModel
from quantizers.setting import Setting
from quantizers.shards import open_shards
from tests.quantizers.tiny_models import (
    _COMMON,
    CONFIGS,
    MIXTURES,
    SEEING,
    logits,
    saved_checkpoint,
)

FOUR = Setting.make(4, "float", block_size=16)
ALL = Setting.make(5, "quantile", block_size=16, centered=True, scope="all")


def loaded(folder: Path, loader: str = "AutoModelForCausalLM") -> torch.nn.Module:
    return getattr(transformers, loader).from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("setting", [FOUR, ALL], ids=["linear", "all"])
@pytest.mark.parametrize("name", [*CONFIGS, *SEEING])
def test_loaded_is_what_the_sweep_scored(name: str, setting: Setting, tmp_path: Path) -> None:
    checkpoint = saved_checkpoint(name, tmp_path / "original")
    resident = ResidentModel(load_model(checkpoint, "cpu")[0])
    bits = resident.apply(setting)
    done = export(checkpoint, setting, KBitFormat(), tmp_path / "packed")
    assert done.bits == bits
    packed = loaded(tmp_path / "packed", done.loader)
    assert (done.loader == "AutoModelForImageTextToText") == (name in SEEING)
    if name == "gemma":  # rounds what it scales embeddings by to the type it is loaded in
        scales = [m.model.embed_tokens.embed_scale for m in (packed, resident.model)]
        assert float(scales[0]) == pytest.approx(float(scales[1]), rel=2**-11)
        packed.model.embed_tokens.embed_scale = scales[1]
    assert torch.equal(logits(packed), logits(resident.model))
    layers = [m for m in packed.modules() if isinstance(m, KBitLinear)]
    tables = [m for m in packed.modules() if isinstance(m, PackedTable)]
    assert len(layers) >= len(resident.wiring.linear)
    assert bool(tables) == (setting.scope == "all")


@pytest.fixture
def llama(tmp_path: Path) -> Checkpoint:
    return saved_checkpoint("llama", tmp_path / "original")


def test_outlier_columns_and_bfloat16(llama: Checkpoint, tmp_path: Path) -> None:
    setting = Setting.make(3, "dynamic", block_size="row", outlier_fraction=0.1)
    checkpoint = Checkpoint(llama.name, llama.source, dtype="bfloat16")
    resident = ResidentModel(load_model(checkpoint, "cpu")[0], torch.bfloat16)
    resident.apply(setting)
    export(checkpoint, setting, KBitFormat(), tmp_path / "packed")
    assert torch.equal(logits(loaded(tmp_path / "packed")), logits(resident.model))


def test_widths_by_kind_of_matrix(llama: Checkpoint, tmp_path: Path) -> None:
    setting = Setting.make(4, "int", block_size="row", attention_bits=8)
    resident = ResidentModel(load_model(llama, "cpu")[0])
    resident.apply(setting)
    export(llama, setting, KBitFormat(), tmp_path / "packed")
    packed = loaded(tmp_path / "packed")
    widths = {m.matrix.body.bits for m in packed.modules() if isinstance(m, KBitLinear)}
    assert widths == {4, 8} and torch.equal(logits(packed), logits(resident.model))


def test_memory_is_the_packed_form(llama: Checkpoint, tmp_path: Path) -> None:
    """One codebook serves all layers; the file holds it once a layer."""
    done = export(llama, FOUR, KBitFormat(), tmp_path / "packed")
    layers = [m for m in loaded(tmp_path / "packed").modules() if isinstance(m, KBitLinear)]
    assert len({layer.codebook.data_ptr() for layer in layers}) == 1
    held = sum(layer.matrix.bytes_stored for layer in layers) + layers[0].codebook.nbytes
    assert held * 8 == done.bits.quantized_bits


def test_it_generates_and_can_be_saved_again(llama: Checkpoint, tmp_path: Path) -> None:
    export(llama, FOUR, KBitFormat(), tmp_path / "packed")
    model, tokenizer = loaded(tmp_path / "packed"), AutoTokenizer.from_pretrained(llama.source)
    ids = tokenizer("w3 w4", return_tensors="pt")["input_ids"]
    assert model.generate(ids, max_new_tokens=4, do_sample=False).shape == (1, 6)
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(loaded(tmp_path / "again")), logits(model))


def test_several_files(llama: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantizers.export.writer._MOST_BYTES", 5000)
    export(llama, FOUR, KBitFormat(), tmp_path / "packed")
    files = sorted(tmp_path.glob("packed/*.safetensors"))
    assert len(files) > 2 and not (tmp_path / "packed" / "model.safetensors").exists()
    assert max(file.stat().st_size for file in files) < 20_000
    resident = ResidentModel(load_model(llama, "cpu")[0])
    resident.apply(FOUR)
    assert torch.equal(logits(loaded(tmp_path / "packed")), logits(resident.model))


def test_the_format_is_known_in_either_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """And kbit alone imports neither torch nor transformers."""
    check = (
        "import sys, kbit\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
        "from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING as known\n"
        "assert known['kbit'].__name__ == 'KBitQuantizer'"
    )
    subprocess.run([sys.executable, "-c", check], check=True, timeout=120)
    registered: list[bool] = []  # here transformers was imported before
    monkeypatch.setattr("kbit.on_import._register", lambda: registered.append(True))
    register_format()
    assert registered


def test_what_cannot_be_exported_leaves_nothing(llama: Checkpoint, tmp_path: Path) -> None:
    output = tmp_path / "packed"
    for setting, message in (
        (Setting.make(16), "nothing to export"),
        (Setting.make(4, "int", block_size="row", activations={"token": 8}), "neither fold"),
        (Setting.make(4, "int", rounding="gptq", calibration="x"), "needs a calibration"),
    ):
        with pytest.raises(ValueError, match=message):
            export(llama, setting, KBitFormat(), output)
    for name in MIXTURES:
        mixture = saved_checkpoint(name, tmp_path / name)
        with pytest.raises(ValueError, match="not the experts of .*no part of a mixture"):
            export(mixture, FOUR, KBitFormat(), output)
    assert {path.name for path in tmp_path.iterdir()} == {"original", *MIXTURES}
    output.mkdir()
    (output / "a.txt").write_text("mine")
    with pytest.raises(ValueError, match="not an empty directory"):
        export(llama, FOUR, KBitFormat(), output)
    assert [path.name for path in output.iterdir()] == ["a.txt"]


def test_what_looks_ahead_is_no_model_to_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONFIGS, "bert", lambda: BertConfig(**_COMMON, intermediate_size=40))
    encoder = saved_checkpoint("bert", tmp_path / "bert")
    with pytest.raises(UnusableModel, match="BertLMHeadModel looks ahead"):
        export(encoder, FOUR, KBitFormat(), tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_an_exported_model_is_quantized_already(llama: Checkpoint, tmp_path: Path) -> None:
    export(llama, FOUR, KBitFormat(), tmp_path / "packed")
    with pytest.raises(UnusableModel, match="quantized already .kbit, 4 bit"):
        load_model(Checkpoint("again", str(tmp_path / "packed")), "cpu")


@pytest.mark.parametrize("name", ["gpt2", "opt", "bloom", "llama", "falcon"])
def test_shards_are_what_loading_gives(name: str, tmp_path: Path) -> None:
    checkpoint = saved_checkpoint(name, tmp_path / "model")
    model, _ = load_model(checkpoint, "cpu")
    skeleton, _, shards = open_shards(checkpoint)
    assert all(parameter.is_meta for parameter in skeleton.parameters())
    for key, parameter in model.named_parameters(remove_duplicate=False):
        assert torch.equal(shards[key], parameter.half())


def test_shards_that_lack_keys_or_have_others(llama: Checkpoint, tmp_path: Path) -> None:
    config = Path(llama.source) / "config.json"
    content = json.loads(config.read_text())
    for change, message in (
        ({"num_hidden_layers": 4}, "lacks 9 keys"),
        ({"num_hidden_layers": 2}, "has 9 keys that the model has no place for"),
        ({"intermediate_size": 48}, "of another shape"),
    ):
        config.write_text(json.dumps(content | change))
        with pytest.raises(UnusableModel, match=message):
            open_shards(llama)
