"""Small random-weight language models, one of each architecture, in fp32."""

from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers

from quantizers.checkpoint import Checkpoint
from quantizers.loading import auto_class

HIDDEN, HEADS, LAYERS, VOCAB = 24, 4, 3, 40

_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 32,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_GATED = {"num_key_value_heads": 2, "intermediate_size": 40}

CONFIGS = {
    "gpt2": lambda: hf.GPT2Config(
        n_embd=HIDDEN, n_head=HEADS, n_layer=LAYERS, n_positions=32, vocab_size=VOCAB
    ),
    "opt": lambda: hf.OPTConfig(**_COMMON, ffn_dim=48, word_embed_proj_dim=HIDDEN),
    "opt-350m": lambda: hf.OPTConfig(
        **_COMMON, ffn_dim=48, word_embed_proj_dim=16, do_layer_norm_before=False
    ),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**_COMMON, intermediate_size=48),
    "bloom": lambda: hf.BloomConfig(
        vocab_size=VOCAB, hidden_size=HIDDEN, n_layer=LAYERS, n_head=HEADS
    ),
    "llama": lambda: hf.LlamaConfig(**_COMMON, **_GATED),
    "qwen3": lambda: hf.Qwen3Config(**_COMMON, **_GATED, head_dim=8),
    "mistral": lambda: hf.MistralConfig(**_COMMON, **_GATED),
    "qwen2": lambda: hf.Qwen2Config(**_COMMON, **_GATED),
    "gptj": lambda: hf.GPTJConfig(
        vocab_size=VOCAB, n_embd=HIDDEN, n_head=HEADS, n_layer=LAYERS, n_positions=32, rotary_dim=4
    ),
    "phi": lambda: hf.PhiConfig(**_COMMON, intermediate_size=40, partial_rotary_factor=1.0),
    "falcon": lambda: hf.FalconConfig(**_COMMON, ffn_hidden_size=40),  # as 7b: multi-query
    "falcon-40b": lambda: hf.FalconConfig(
        **_COMMON, ffn_hidden_size=40, new_decoder_architecture=True, num_kv_heads=2
    ),
    "falcon-rw": lambda: hf.FalconConfig(
        **_COMMON, ffn_hidden_size=40, multi_query=False, parallel_attn=False, alibi=True
    ),
    # Not one whose wiring is known:
    "gemma": lambda: hf.GemmaConfig(**_COMMON, **_GATED, head_dim=8),
}
KNOWN = [name for name in CONFIGS if name != "gemma"]
_EXPERTS = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 20}
MIXTURES = {
    "mixtral": lambda: hf.MixtralConfig(
        **_COMMON, **_GATED, num_local_experts=3, num_experts_per_tok=2
    ),
    "qwen2_moe": lambda: hf.Qwen2MoeConfig(
        **_COMMON, **_GATED, **_EXPERTS, shared_expert_intermediate_size=28, mlp_only_layers=[1]
    ),
    "qwen3_moe": lambda: hf.Qwen3MoeConfig(**_COMMON, **_GATED, **_EXPERTS, head_dim=8),
    "olmoe": lambda: hf.OlmoeConfig(**_COMMON, **_GATED, num_experts=3, num_experts_per_tok=2),
    "gpt_oss": lambda: hf.GptOssConfig(
        **_COMMON, **_GATED, head_dim=8, num_local_experts=3, num_experts_per_tok=2
    ),
    # Not one whose wiring is known:
    "granitemoe": lambda: hf.GraniteMoeConfig(
        **_COMMON, **_GATED, num_local_experts=3, num_experts_per_tok=2
    ),
}
VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip
# Listed by transformers among models of images and text alone.
SEEING = {
    "llava": lambda: hf.LlavaConfig(
        text_config=hf.LlamaConfig(**_COMMON, **_GATED),
        vision_config=hf.CLIPVisionConfig(**VISION),
    ),
    "qwen2_vl": lambda: hf.Qwen2VLConfig(
        text_config={
            **_COMMON,
            **_GATED,
            "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 1]},
        },
        vision_config={"depth": 1, "embed_dim": 8, "hidden_size": HIDDEN, "num_heads": 2},
    ),
}


def tiny_model(name: str, seed: int = 0, layers: int = LAYERS) -> Any:
    """Biases, norms and all get random values, so that nothing hides behind a zero."""
    torch.manual_seed(seed)
    config = (CONFIGS | MIXTURES | SEEING)[name]()
    config.get_text_config().num_hidden_layers = layers  # of GPT-2 and BLOOM, an alias
    model = auto_class(config).from_config(config).eval().float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(12).view(1, 12) % VOCAB).logits


def saved_checkpoint(name: str, folder: Path, **options: Any) -> Checkpoint:
    """A tiny model as the hub would have it, in fp16, with a tokenizer of its vocabulary."""
    tiny_model(name).half().save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", eos_token="w1")
    tokenizer.save_pretrained(folder)
    return Checkpoint(name, str(folder), **options)
