"""What is known of the architectures that have a file in `wiring/`. Torch-free: sweeps are planned
with it, before any model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantizers.setting import Setting

WIRED = frozenset(
    ("bloom", "falcon", "gpt2", "gpt_neox", "gptj", "llama", "mistral", "opt", "phi", "qwen2")
    + ("qwen3", "gpt_oss", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe")
)
EXPERTS = frozenset(("gpt_oss", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe"))
_WITH_SHARED_EXPERT = frozenset(("qwen2_moe",))  # which sees all that a norm puts out


@dataclass(frozen=True)
class StreamNames:
    """Modules at the ends of the residual stream, beside the output head."""

    embeddings: tuple[str, ...]  # what is added up at its beginning
    final_norm: str  # what the head reads


_LLAMA = StreamNames(("model.embed_tokens",), "model.norm")

# By model type: those whose stream nothing but norms and linear maps reads or writes.
STREAMS: dict[str, StreamNames] = {
    "falcon": StreamNames(("transformer.word_embeddings",), "transformer.ln_f"),
    "gpt2": StreamNames(("transformer.wte", "transformer.wpe"), "transformer.ln_f"),
    "gpt_neox": StreamNames(("gpt_neox.embed_in",), "gpt_neox.final_layer_norm"),
    "gptj": StreamNames(("transformer.wte",), "transformer.ln_f"),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "opt": StreamNames(
        ("model.decoder.embed_tokens", "model.decoder.embed_positions"),
        "model.decoder.final_layer_norm",
    ),
    "phi": StreamNames(("model.embed_tokens",), "model.final_layernorm"),
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}


def rotation_problem(architecture: str) -> str | None:
    """Why the residual stream of an architecture cannot be rotated, as far as its name tells."""
    if architecture in STREAMS:
        return None
    if architecture == "bloom":
        return "folding: hadamard: BLOOM's embedding has a norm behind it, which no rotation passes"
    return (
        f"folding: hadamard: what reads and writes the residual stream of architecture "
        f"{architecture!r} is not known"
    )


def streaming_problem(config: Mapping[str, Any]) -> str | None:
    """Why a model cannot be scored block by block, as far as its config.json tells."""
    kind = str(config.get("model_type"))
    if kind in EXPERTS:
        return f"streaming: the experts of {kind!r} cannot be read piece by piece"
    if kind not in WIRED:
        return (
            f"streaming: what the blocks of architecture {kind!r} hand on to each other is not "
            "known"
        )
    return None


def problem(setting: Setting, config: Mapping[str, Any]) -> str | None:
    """Why a model cannot have a setting, as far as its config.json tells; None: nothing there says
    so. What is wrong with the setting alone, `Setting.make` says.
    """
    kind = str(config.get("model_type"))
    activations = setting.activation_format
    if setting.folding_method is not None and (said := _folding_problem(setting, config, kind)):
        return said
    if activations is not None and kind in EXPERTS:
        return (
            f"activations: {kind!r} has experts, whose inputs cannot be quantized yet; set it to 16"
        )
    if kind in WIRED:
        return None
    if activations is not None and activations.name == "by_type":
        return (
            f"activations: by_type does not know the wiring of architecture {kind!r}; choose "
            "token, tensor or by_range"
        )
    if setting.attention_bits is not None:
        return f"attention_bits: the wiring of architecture {kind!r} is not known; leave it out"
    return None if setting.cache is None else cache_problem(kind, config)


def cache_problem(kind: str, config: Mapping[str, Any]) -> str | None:
    """Why keys and values of an architecture cannot be rounded."""
    if kind in WIRED:
        return None
    what = "holds is not known"
    if config.get("kv_lora_rank"):
        what = "holds is a compressed latent (MLA), no keys and values"
    return f"kv: what the cache of architecture {kind!r} {what}; set it to 16"


def _folding_problem(setting: Setting, config: Mapping[str, Any], kind: str) -> str | None:
    if kind not in WIRED:
        return f"folding: the wiring of architecture {kind!r} is not known; set it to none"
    if kind in EXPERTS - _WITH_SHARED_EXPERT:
        return (
            f"folding: no expert of {kind!r} sees all that the norm before them puts out, so the "
            "calibration has no statistics of it; set it to none"
        )
    behind = kind == "opt" and config.get("do_layer_norm_before") is False
    if behind or (kind == "bloom" and config.get("apply_residual_connection_post_layernorm")):
        return (
            f"folding: in this {kind!r} the residual stream reads what the norms put out, not "
            "linear maps alone; set it to none"
        )
    if not setting.is_rotated:
        return None
    inner = config.get("word_embed_proj_dim")
    if kind == "opt" and inner not in (None, config.get("hidden_size", inner)):
        return "folding: hadamard: this 'opt' projects its embeddings; set it to none"
    return rotation_problem(kind)
