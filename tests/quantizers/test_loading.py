"""A checkpoint is loaded whole, or refused in one line that says what is wrong with it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    FalconConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLNetConfig,
)

from quantizers.checkpoint import Checkpoint, UnusableModel, check_folder
from quantizers.loading import load_model
from quantizers.soundness import check_causal

VOCABULARY = 64
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
CAUSAL = {
    "neox": GPTNeoXConfig(**SIZES),
    "llama": LlamaConfig(**SIZES),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4),
    "falcon": FalconConfig(**SIZES),
    "mixtral": MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=4),
}
LOOKING_AHEAD = {
    "bert": BertConfig(**SIZES),
    "roberta": RobertaConfig(**SIZES),
    "llama": LlamaConfig(**SIZES, is_causal=False),
    "xlnet": XLNetConfig(vocab_size=VOCABULARY, d_model=32, n_layer=2, n_head=4, d_inner=64),
}


def tiny(config, seed: int = 0):
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config).eval()


def saved(folder: Path, config, dtype: torch.dtype = torch.float16, tokens: int = 48) -> Path:
    """A checkpoint as the hub has them, with a tokenizer of `tokens` words and `<pad>`."""
    tiny(config).to(dtype).save_pretrained(folder)
    vocabulary = {f"w{i}": i for i in range(tokens)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="w0", eos_token="w1", pad_token="<pad>"
    ).save_pretrained(folder)
    return folder


def refused(folder: Path, **options) -> str:
    with pytest.raises(UnusableModel) as caught:
        load_model(Checkpoint("m", str(folder), **options), "cpu")
    message = str(caught.value)
    assert message.startswith("model m: ") and len(message.splitlines()) == 1
    return message


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def with_key(key: str, value: Tensor) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: tensors | {key: value}


@pytest.mark.parametrize("name", CAUSAL)
def test_a_whole_checkpoint_is_loaded_as_it_was_saved(tmp_path: Path, name: str) -> None:
    model, tokenizer = load_model(Checkpoint("m", str(saved(tmp_path, CAUSAL[name]))), "cpu")
    expected = dict(tiny(CAUSAL[name]).half().named_parameters())
    for key, parameter in model.named_parameters():
        assert torch.equal(parameter, expected[key]), key
    check_causal(model.float())
    assert len(tokenizer) == 49


def without(part: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {k: v for k, v in tensors.items() if part not in k}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without(".layers.1."), "lacks 12 keys: gpt_neox.layers.1.attention.dense.bias, "),
        (without("embed_out"), "lacks 1 key: lm_head.weight"),
        (lambda t: {f"x.{k}": v for k, v in t.items()}, "no place for: x."),
        (with_key("gpt_neox.adapter.weight", torch.ones(2)), "no place for: gpt_neox.adapter"),
        (
            with_key("gpt_neox.final_layer_norm.bias", torch.ones(5)),
            r"1 key of another shape: gpt_neox.final_layer_norm.bias ([5], the model's [32])",
        ),
    ],
)
def test_missing_unexpected_and_misshapen_keys_are_named(tmp_path: Path, change, reason) -> None:
    rewrite(saved(tmp_path, CAUSAL["neox"]), change)
    message = refused(tmp_path)
    assert f"{tmp_path / 'model.safetensors'} " in message and reason in message


def test_its_config_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the loader: of the tokenizer `transformers` has its own way."""
    saved(tmp_path, CAUSAL["llama"])
    read, real = [], PreTrainedConfig.get_config_dict.__func__

    def counted(cls, source, **options):
        read.append(source)
        return real(cls, source, **options)

    monkeypatch.setattr("quantizers.loading.load_tokenizer", lambda checkpoint: range(48))
    monkeypatch.setattr("quantizers.loading.check_vocabulary", lambda *given: None)
    monkeypatch.setattr(PreTrainedConfig, "get_config_dict", classmethod(counted))
    load_model(Checkpoint("x", str(tmp_path)), "cpu")
    assert read == [str(tmp_path)]


def test_a_pickle_that_is_no_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path, CAUSAL["neox"])
    (tmp_path / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(3)}, tmp_path / "pytorch_model.bin")
    message = refused(tmp_path, weights="bin")
    assert "pytorch_model.bin lacks 28 keys" in message and "1 key that the model" in message
    (tmp_path / "pytorch_model.bin").write_bytes(b"no pickle")
    assert "pytorch_model.bin cannot be loaded: " in refused(tmp_path, weights="bin")


def test_tied_weights_and_what_old_checkpoints_carry_lack_nothing(tmp_path: Path) -> None:
    saved(tmp_path / "gpt2", CAUSAL["gpt2"])
    assert "lm_head.weight" not in load_file(tmp_path / "gpt2" / "model.safetensors")
    rewrite(tmp_path / "gpt2", with_key("transformer.h.0.attn.bias", torch.ones(1, 1, 4, 4)))
    load_model(Checkpoint("m", str(tmp_path / "gpt2")), "cpu")
    saved(tmp_path / "neox", CAUSAL["neox"])
    for key in ("attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq"):
        rewrite(tmp_path / "neox", with_key(f"gpt_neox.layers.0.{key}", torch.ones(4)))
    load_model(Checkpoint("m", str(tmp_path / "neox")), "cpu")


@pytest.mark.parametrize("name", LOOKING_AHEAD)
def test_what_looks_ahead_is_refused(name: str) -> None:
    with pytest.raises(UnusableModel, match="looks ahead"):
        check_causal(tiny(LOOKING_AHEAD[name]))


def test_an_encoders_own_checkpoint_is_called_what_it_is(tmp_path: Path) -> None:
    saved(tmp_path, LOOKING_AHEAD["bert"])
    rewrite(tmp_path, with_key("cls.seq_relationship.bias", torch.ones(2)))
    assert "looks ahead" in refused(tmp_path)


@pytest.mark.parametrize("key", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"])
def test_a_weight_that_overflows_float16(tmp_path: Path, key: str) -> None:
    saved(tmp_path, CAUSAL["llama"], torch.bfloat16)
    shape = load_file(tmp_path / "model.safetensors")[key].shape
    rewrite(tmp_path, with_key(key, torch.full(shape, 7e4, dtype=torch.bfloat16)))
    assert f"{key}: a weight overflows float16; set dtype: bfloat16" in refused(tmp_path)
    load_model(Checkpoint("m", str(tmp_path), dtype="bfloat16"), "cpu")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_damaged_weight_is_refused_whatever_the_precision(tmp_path, value, dtype) -> None:
    saved(tmp_path, CAUSAL["llama"])
    rewrite(tmp_path, lambda t: t | {"model.norm.weight": t["model.norm.weight"] * value})
    message = refused(tmp_path, dtype=dtype)
    assert "model.norm.weight holds " in message and "damaged" in message


def test_special_tokens_beyond_the_embeddings_are_no_other_models(tmp_path: Path) -> None:
    saved(tmp_path / "one", CAUSAL["llama"], tokens=VOCABULARY)  # and <pad>
    _, tokenizer = load_model(Checkpoint("m", str(tmp_path / "one")), "cpu")
    assert len(tokenizer) == VOCABULARY + 1
    saved(tmp_path / "words", CAUSAL["llama"], tokens=VOCABULARY + 2)
    assert "67 tokens in the tokenizer, 64 embeddings" in refused(tmp_path / "words")


QUANTIZED = {"quantization_config": {"quant_method": "gptq", "bits": 4}}


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "x/y"},
         "adapter_config.json makes this an adapter, which kbit does not read: merge it"),
        ("config.json", QUANTIZED, "quantized already (gptq, 4 bit: quantization_config of "),
        ("config.json", {"text_config": {"quantization_config": {"quant_method": "awq"}}}, "(awq:"),
        ("config.json", {"compression_config": {"format": "pack"}}, "(compression_config: "),
        ("config.json", {"quantization_config": {"quant_method": "bitsandbytes"}}, "bitsandbytes"),
        ("quantize_config.json", {"bits": 4}, "quantized already (GPTQ: "),
        ("config.json", [], "config.json is not a JSON object"),
    ],
)  # fmt: skip
def test_formats_that_kbit_does_not_read_are_named_before_loading(
    tmp_path: Path, file: str, content, reason: str
) -> None:
    saved(tmp_path, CAUSAL["llama"])
    path = tmp_path / file
    known = json.loads(path.read_text()) if path.exists() and content else {}
    path.write_text(json.dumps(known | content if content else content))
    assert reason in refused(tmp_path)
    with pytest.raises(UnusableModel, match=re.escape(reason)):
        check_folder(tmp_path, "safetensors")


@pytest.mark.parametrize(
    ("key", "dtype"),
    [("mlp.up_proj.qweight", torch.int32), ("mlp.up_proj.weight", torch.int8),
     ("mlp.up_proj.weight_packed", torch.int32), ("mlp.up_proj.SCB", torch.float32),
     ("mlp.up_proj.weight", torch.float8_e4m3fn)],
)  # fmt: skip
def test_quantized_tensors_show_in_the_header(tmp_path: Path, key: str, dtype) -> None:
    saved(tmp_path, CAUSAL["llama"])
    value = torch.zeros(4, dtype=dtype)
    rewrite(tmp_path, with_key(f"model.layers.0.{key}", value))
    with pytest.raises(UnusableModel, match=f"quantized already.*{key}"):
        check_folder(tmp_path, "safetensors")


def test_the_way_out_of_a_folder_without_the_right_weights(tmp_path: Path) -> None:
    saved(tmp_path, CAUSAL["llama"])
    assert "model.safetensors is there: set `weights: safetensors`" in refused(
        tmp_path, weights="bin"
    )
    weights = tmp_path / "model.safetensors"
    weights.rename(tmp_path / "pytorch_model.bin")
    assert "pytorch_model.bin is there: set `weights: bin`" in refused(tmp_path)
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "model-Q4_0.gguf")
    assert "model-Q4_0.gguf is GGUF, which kbit does not read" in refused(tmp_path)
    assert "kbit convert model-Q4_0.gguf" in refused(tmp_path / "model-Q4_0.gguf")
    (tmp_path / "config.json").unlink()
    assert f"config.json is missing in {tmp_path}: model-Q4_0.gguf is GGUF" in refused(tmp_path)
    assert "is not a directory" in refused(tmp_path / "none")


def test_the_file_that_is_read_is_the_one_that_counts(tmp_path: Path) -> None:
    """`from_pretrained` takes a single file before an index; so does the fingerprint."""
    saved(tmp_path, CAUSAL["llama"])
    index = {"metadata": {}, "weight_map": {"a": "gone-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert check_folder(tmp_path, "safetensors") == [tmp_path / "model.safetensors"]
    (tmp_path / "model.safetensors").rename(tmp_path / "part.safetensors")
    assert "gone-1.safetensors is missing" in refused(tmp_path)
    index["weight_map"]["a"] = "part.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    load_model(Checkpoint("m", str(tmp_path)), "cpu")


def test_what_is_no_causal_language_model_at_all(tmp_path: Path) -> None:
    saved(tmp_path, CAUSAL["llama"])
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "vit"}))
    assert "no causal language model that transformers knows" in refused(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "nonesuch"}))
    assert "nonesuch" in refused(tmp_path)
