"""compressed-tensors files: their codes and scales are ours, and its own library reads them so."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from quantizers.blockwise import dequantize
from quantizers.checkpoint import Checkpoint
from quantizers.export.compressed_tensors import CompressedTensors
from quantizers.export.conversion import export
from quantizers.loading import load_model
from quantizers.outliers import quantize_matrix
from quantizers.packing import unpack
from quantizers.resident import ResidentModel
from quantizers.setting import Setting
from quantizers.wiring import wiring_of
from tests.quantizers.tiny_models import logits, saved_checkpoint, tiny_model

TOKENS = {"activations": {"token": 8}}
SETTINGS = {
    "W4A16": Setting.make(4, "int", block_size=8),
    "W3A16": Setting.make(3, "int", block_size={"group": 24}),
    "W8A16": Setting.make(8, "int", block_size="row"),
    "W8A8": Setting.make(8, "int", block_size="row", **TOKENS),
}


@pytest.mark.parametrize("name", [n for n in SETTINGS if n != "W3A16"])
def test_codes_times_scales_are_our_weights(name: str) -> None:
    """To half a unit in the last place of 16 bit, since ours are rounded to it."""
    setting, written = SETTINGS[name], CompressedTensors()
    written.check(setting)
    site = wiring_of(tiny_model("llama")).linear[0]
    matrix = quantize_matrix(site.weight.half(), setting)
    tensors = written.tensors(site, matrix)
    d_out, d_in = matrix.body.shape
    if name == "W8A8":
        codes = tensors["weight"].long()
    else:
        words = tensors["weight_packed"]  # each row a stream of its own
        offset, count = 2 ** (matrix.body.bits - 1), words.shape[1] * 32 // matrix.body.bits
        rows = [unpack(row, matrix.body.bits, count)[:d_in] - offset for row in words]
        codes = torch.stack(rows)
        assert tensors["weight_shape"].tolist() == [d_out, d_in]
    scale = tensors["weight_scale"]
    restored = codes * scale.repeat_interleave(d_in // scale.shape[1], dim=1)
    ours = dequantize(matrix.body).float()
    assert ((restored - ours).abs() <= 2**-11 * ours.abs() * 1.001 + 2**-25).all()
    assert torch.equal(restored.half().float(), ours)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"data_type": "float", "block_size": "row"}, "only data type int"),
        ({"bits": 9, "block_size": "row"}, "at most 8 bits"),
        ({"block_size": None}, "blocks of rows"),
        ({"block_size": "row", "attention_bits": 8}, "one width"),
        ({"block_size": "row", "centered": True}, "no centering"),
        ({"block_size": "row", "outlier_fraction": 0.1}, "no outlier columns"),
        ({"block_size": "row", "scope": "all"}, "scope linear"),
        ({"block_size": "row", **TOKENS}, "beside 8 bit a row"),
        ({"bits": 8, "block_size": "row", "activations": {"token": 7}}, "token: 8"),
    ],
)
def test_what_it_cannot_express_is_refused(factors: dict, message: str) -> None:
    given = {"bits": 4, "data_type": "int", **factors}
    with pytest.raises(ValueError, match=message):
        CompressedTensors().check(Setting.make(**given))


def test_groups_across_rows_and_other_layers_are_refused(tmp_path: Path) -> None:
    llama = saved_checkpoint("llama", tmp_path / "llama")
    with pytest.raises(ValueError, match="groups of 16 do not divide its rows of 24"):
        export(llama, Setting.make(4, "int", block_size=16), CompressedTensors(), tmp_path / "x")
    gpt2 = saved_checkpoint("gpt2", tmp_path / "gpt2")
    with pytest.raises(ValueError, match="not Conv1D"):
        export(gpt2, SETTINGS["W8A16"], CompressedTensors(), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_only_quantized_layers_are_targets(tmp_path: Path) -> None:
    checkpoint = saved_checkpoint("llama", tmp_path / "llama")
    export(checkpoint, SETTINGS["W8A16"], CompressedTensors(), tmp_path / "x")
    config = json.loads((tmp_path / "x" / "config.json").read_text())["quantization_config"]
    assert config["format"] == "pack-quantized" and config["ignore"] == ["lm_head"]
    stored = load_file(tmp_path / "x" / "model.safetensors")
    assert stored["model.layers.0.mlp.up_proj.weight_scale"].shape == (40, 1)
    assert stored["lm_head.weight"].dtype == torch.float16


@pytest.mark.parametrize("name", SETTINGS)
def test_the_library_reads_our_weights(name: str, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors", reason="pip install compressed-tensors")
    checkpoint: Checkpoint = saved_checkpoint("opt", tmp_path / "opt")  # rows of 24 and 48
    setting = SETTINGS[name]
    export(checkpoint, setting, CompressedTensors(), tmp_path / "x")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "x", dtype=torch.float32)
    resident = ResidentModel(load_model(checkpoint, "cpu")[0])
    resident.apply(setting)
    with torch.no_grad():
        found, expected = logits(theirs), logits(resident.model)  # weights are there after a pass
    for site in resident.wiring.linear:
        weight = theirs.get_submodule(site.name).weight
        assert torch.equal(weight.half().float(), site.weight)
    # Their token scale is max / 127.5, ours max / 127: inputs are rounded at other places.
    tolerance = 0.05 if name == "W8A8" else 2e-3
    assert ((found - expected).abs().max() <= tolerance * expected.abs().max()).all()
