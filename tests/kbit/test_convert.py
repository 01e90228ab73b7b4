"""`kbit convert`: a GGUF file becomes a checkpoint that loads; what is none is one line."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from quantizers.checkpoint import Checkpoint
from quantizers.loading import load_model
from tests.kbit.test_cli import kbit

HIDDEN, HEADS, FFN, WORDS = 64, 4, 96, 48


def write_gguf(path: Path) -> dict[str, np.ndarray]:
    """A Llama of one block: matrices in Q8_0, norms and embeddings in F32. Returns what it holds,
    dequantized."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(32)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(WORDS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["w", "1", "w1", "<|endoftext|>", *(f"x{i}" for i in range(4, WORDS))])
    writer.add_token_types([1] * WORDS)
    writer.add_token_merges(["w 1"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    random, held = np.random.default_rng(0), {}
    shapes = {
        "token_embd": (WORDS, HIDDEN), "output": (WORDS, HIDDEN), "blk.0.ffn_up": (FFN, HIDDEN),
        "blk.0.ffn_gate": (FFN, HIDDEN), "blk.0.ffn_down": (HIDDEN, FFN),
        **{f"blk.0.attn_{part}": (HIDDEN, HIDDEN) for part in ("q", "k", "v", "output")},
    }  # fmt: skip
    for name, shape in shapes.items():
        weight = random.normal(0, 0.05, shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.F32
        if name.startswith("blk"):
            kind = gguf.GGMLQuantizationType.Q8_0
        packed = gguf.quants.quantize(weight, kind)
        held[name] = gguf.quants.dequantize(packed, kind)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
    for norm in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{norm}.weight", np.ones(HIDDEN, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def test_a_file_becomes_a_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="pip install 'kbit-scaling[gguf]'")
    held = write_gguf(tmp_path / "tiny.gguf")
    run = kbit("convert", tmp_path / "tiny.gguf", "--output", tmp_path / "model")
    assert run.returncode == 0, run.stderr
    assert "5 F32, 7 Q8_0 tensors, dequantized to float16" in run.stdout
    model, tokenizer = load_model(Checkpoint("tiny", str(tmp_path / "model")), "cpu")
    assert len(tokenizer) == WORDS
    assert tokenizer.tokenize("w1") == ["w", "1"]  # though there is a merge: digits stand apart
    for name, ours in (("blk.0.ffn_up", "mlp.up_proj"), ("blk.0.ffn_down", "mlp.down_proj")):
        weight = model.get_submodule(f"model.layers.0.{ours}").weight
        assert torch.equal(weight, torch.from_numpy(held[name]).half())


def test_what_cannot_be_converted_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("no such thing")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF" + bytes(8))
    cut = "cannot be loaded" if find_spec("gguf") else "pip install 'kbit-scaling[gguf]'"
    for file, message in (
        ("none.gguf", "no such file"), ("text.gguf", "is not a GGUF file"), ("cut.gguf", cut),
        (".", "is a folder: name a .gguf file in it"),
    ):  # fmt: skip
        run = kbit("convert", tmp_path / file, "--output", tmp_path / "x")
        assert run.returncode == 2 and message in run.stderr, run.stderr
        assert len(run.stderr.splitlines()) == 1 and not (tmp_path / "x").exists()
