"""What is known of the architectures that have a file in `wiring/`. Torch-free: sweeps are planned
with it, before any model is loaded."""

from __future__ import annotations

from dataclasses import dataclass


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
