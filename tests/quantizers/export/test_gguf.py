"""GGUF files: what two other readers make of them are our weights, or the file is not written."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from evaluation.shipped import SHIPPED
from quantizers.checkpoint import Checkpoint
from quantizers.export.gguf_blocks import Gguf
from quantizers.export.gguf_file import check_gguf_model, export_gguf
from quantizers.export.gguf_vocabulary import add_vocabulary
from quantizers.loading import load_model
from quantizers.outliers import dequantize_matrix, quantize_matrix
from quantizers.resident import ResidentModel
from quantizers.setting import Setting

gguf = pytest.importorskip("gguf", reason="pip install 'kbit-scaling[gguf]'")

HEADS, GROUPS, WORDS = 4, 2, 2048
Q4 = Setting.make(4, "int", block_size=32)
COMMON: dict[str, Any] = {
    "vocab_size": WORDS, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": HEADS, "num_key_value_heads": GROUPS, "max_position_embeddings": 64,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
CONFIGS = {
    "llama": lambda: hf.LlamaConfig(**COMMON),
    "tied": lambda: hf.LlamaConfig(**COMMON, tie_word_embeddings=True),
    "mistral": lambda: hf.MistralConfig(**COMMON, sliding_window=None),
    "qwen2": lambda: hf.Qwen2Config(**COMMON),
    "qwen3": lambda: hf.Qwen3Config(**COMMON, head_dim=128),
}


def saved(folder: Path, config: Any, dtype: torch.dtype = torch.bfloat16) -> Checkpoint:
    """A random model with the embedded models' tokenizer."""
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.to(dtype).save_pretrained(folder)
    shutil.copytree(SHIPPED / "models" / "tokenizer", folder, dirs_exist_ok=True)
    return Checkpoint("tiny", str(folder), dtype=str(dtype).removeprefix("torch."))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return saved(tmp_path_factory.mktemp("gguf") / "llama", CONFIGS["llama"]())


def dequantized(file: Path) -> dict[str, torch.Tensor]:
    return {
        tensor.name: torch.from_numpy(
            np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
        )
        for tensor in gguf.GGUFReader(file).tensors
    }


def halves_of_pairs(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """llama.cpp turns rows 2i and 2i + 1 of a head together, transformers i and i + d / 2."""
    d = len(rows) // heads
    order = [h * d + 2 * i + half for h in range(heads) for half in (0, 1) for i in range(d // 2)]
    return rows[order]


def test_each_tensor_is_ours(llama: Checkpoint, tmp_path: Path) -> None:
    done = export_gguf(llama, Q4, tmp_path / "x.gguf")
    assert done.file_bytes == (tmp_path / "x.gguf").stat().st_size
    held = dequantized(tmp_path / "x.gguf")
    model, _ = load_model(llama, "cpu")
    state = model.state_dict()
    assert len(held) == len(state)
    for part, name, heads in (
        ("attn_q", "self_attn.q_proj", HEADS), ("attn_k", "self_attn.k_proj", GROUPS),
        ("attn_v", "self_attn.v_proj", 0), ("attn_output", "self_attn.o_proj", 0),
        ("ffn_gate", "mlp.gate_proj", 0), ("ffn_up", "mlp.up_proj", 0),
        ("ffn_down", "mlp.down_proj", 0),
    ):  # fmt: skip
        weight = state[f"model.layers.1.{name}.weight"]
        ours = dequantize_matrix(quantize_matrix(weight, Q4))
        found = held[f"blk.1.{part}.weight"]
        found = halves_of_pairs(found, heads) if heads else found
        assert torch.equal(found.bfloat16(), ours) and not torch.equal(ours, weight), part
    for there, name in (
        ("token_embd", "model.embed_tokens"), ("output", "lm_head"), ("output_norm", "model.norm"),
        ("blk.0.attn_norm", "model.layers.0.input_layernorm"),
    ):  # fmt: skip
        assert torch.equal(held[f"{there}.weight"], state[f"{name}.weight"].float())


@pytest.mark.parametrize(
    ("name", "scope"),
    [("llama", "linear"), ("llama", "all"), ("tied", "all"), ("mistral", "linear")]
    + [("qwen2", "all"), ("qwen3", "linear")],
)
def test_transformers_reads_the_model_that_is_scored(name: str, scope: str, tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "model", CONFIGS[name]())
    setting = Setting.make(4, "int", block_size=32, scope=scope)
    export_gguf(checkpoint, setting, tmp_path / "x.gguf")
    source = {"pretrained_model_name_or_path": str(tmp_path), "gguf_file": "x.gguf"}
    read: Any = hf.AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.float32, quantization_config=hf.GgufConfig(dequantize=True)
    )
    ours, tokenizer = load_model(checkpoint, "cpu")
    resident = ResidentModel(ours, torch.bfloat16, torch.float32)
    resident.apply(setting)
    ids = torch.arange(5, 29)[None]
    with torch.no_grad():
        for parameter in read.parameters():
            parameter.copy_(parameter.bfloat16())
        assert torch.equal(read(ids).logits, resident.model(ids).logits)
    text = "It's 1947,  and we don't\n\n wait."
    theirs = hf.AutoTokenizer.from_pretrained(**source)
    assert theirs(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_what_would_not_be_our_weights_is_refused(llama: Checkpoint, tmp_path: Path) -> None:
    output = tmp_path / "x.gguf"
    output.write_text("mine")
    half = saved(tmp_path / "half", CONFIGS["llama"](), torch.float16)
    for checkpoint, setting, reason in (
        (half, Q4, r"layers\.0\.self_attn\.q_proj\.weight: .* beside float16; take the mod"),
        (llama, Setting.make(8, "int", block_size=32), "Q8_0's scale.*take --bits 4"),
    ):
        with pytest.raises(ValueError, match=reason):
            export_gguf(checkpoint, setting, output)
    assert output.read_text() == "mine" and not output.with_name("x.gguf.partial").exists()


def test_8_bits_are_written_where_they_hold_the_weights(tmp_path: Path) -> None:
    """Three levels a block: 0 and its absmax."""
    checkpoint = saved(tmp_path / "model", CONFIGS["tied"]())
    model, _ = load_model(checkpoint, "cpu")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight.copy_(weight.sign() * (weight.abs() > 0.03) * 0.11)
    model.save_pretrained(tmp_path / "model")
    export_gguf(checkpoint, Setting.make(8, "int", block_size=32), tmp_path / "x.gguf")
    held = dequantized(tmp_path / "x.gguf")
    weight = model.get_parameter("model.layers.0.mlp.up_proj.weight")
    assert torch.equal(held["blk.0.ffn_up.weight"].bfloat16(), weight)
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "x.gguf").tensors}
    assert kinds["blk.0.ffn_up.weight"] == "Q8_0" and kinds["token_embd.weight"] == "BF16"
    assert "output.weight" not in kinds


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"data_type": "float"}, "only data type int"),
        ({"bits": 5}, "only 4 bit"),
        ({"block_size": 64}, "only blocks of 32"),
        ({"attention_bits": 8}, "only one width"),
        ({"centered": True}, "no centering"),
        ({"outlier_fraction": 0.1}, "no outlier columns"),
        ({"activations": {"token": 8}}, "16-bit inputs"),
    ],
)
def test_settings_that_it_cannot_express(factors: dict, message: str) -> None:
    given = {"bits": 4, "data_type": "int", "block_size": 32, **factors}
    with pytest.raises(ValueError, match=message):
        Gguf().check(Setting.make(**given))


def test_models_that_are_not_written_are_told_without_their_weights(
    llama: Checkpoint, tmp_path: Path
) -> None:
    (tmp_path / "x").mkdir()
    save_file({}, tmp_path / "x" / "model.safetensors")
    config = json.loads((Path(llama.source) / "config.json").read_text())
    linear = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}
    for changes, reason in (
        ({"model_type": "gpt_neox"}, "architecture 'gpt_neox': GGUF is written of llama"),
        (linear, "llama with scaled rotary"),
        ({"hidden_act": "gelu"}, "activation gelu"),
        ({"model_type": "mistral", "sliding_window": 8}, "a sliding window"),
        ({"intermediate_size": 40}, r"down_proj\.weight: .* do not divide its rows of 40"),
    ):
        (tmp_path / "x" / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(ValueError, match=reason):
            check_gguf_model(Checkpoint("x", str(tmp_path / "x")))


def test_a_tokenizer_of_another_kind_is_refused(llama: Checkpoint, tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    hf.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path / "words")
    other = Checkpoint("x", llama.source, tokenizer=str(tmp_path / "words"), dtype="bfloat16")
    with pytest.raises(ValueError, match="a tokenizer of kind WordLevel"):
        export_gguf(other, Q4, tmp_path / "x.gguf")
    assert not list(tmp_path.glob("x.gguf*"))


def test_sentencepiece_is_written_with_scores_in_the_order_of_merges() -> None:
    pieces = ["<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "▁ab", "▁a"]
    words = Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(pieces)}, [("▁", "a"), ("▁a", "b")],
            unk_token="<unk>", byte_fallback=True,
        )
    )  # fmt: skip
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    writer = gguf.GGUFWriter(None, "llama")
    add_vocabulary(writer, tokenizer, len(pieces) + 1)
    held = {key: value.value for key, value in writer.kv_data[0].items()}
    kinds = gguf.TokenType
    assert held["tokenizer.ggml.model"] == "llama" and held["tokenizer.ggml.add_space_prefix"]
    assert held["tokenizer.ggml.tokens"] == [*pieces, "[PAD9]"]
    assert held["tokenizer.ggml.scores"] == [-2, -2, -2, -2, -2, -2, -2, -1, 0, -2]
    assert held["tokenizer.ggml.token_type"] == [
        kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, kinds.BYTE, *[kinds.NORMAL] * 5, kinds.UNUSED,
    ]  # fmt: skip
    assert held["tokenizer.ggml.bos_token_id"] == 1 and not held["tokenizer.ggml.add_bos_token"]


@pytest.mark.parametrize("name", ["smollm", "qwen2", "llama-bpe"])
def test_how_text_is_split_is_told_by_what_splits_it(name: str) -> None:
    """The expressions are those that transformers splits by where a GGUF file says the name."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    before = hf.AutoTokenizer.from_pretrained(SHIPPED / "models" / "tokenizer").backend_tokenizer
    split: Any = pre_tokenizers.Digits(individual_digits=True)
    if name != "smollm":
        split = pre_tokenizers.Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[name]), "isolated")
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name == "smollm")
    before.pre_tokenizer = pre_tokenizers.Sequence([split, plain])
    before.model = models.BPE(
        before.get_vocab(with_added_tokens=False), [], ignore_merges=name == "llama-bpe"
    )
    writer = gguf.GGUFWriter(None, "llama")
    add_vocabulary(writer, hf.PreTrainedTokenizerFast(tokenizer_object=before), WORDS)
    assert writer.kv_data[0]["tokenizer.ggml.pre"].value == name
