"""A model's tensors and numbers under the names that llama.cpp knows."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class _Kin(NamedTuple):
    architecture: str  # a name of gguf.MODEL_ARCH
    turns_pairs: bool  # whether it rotates neighbours where transformers rotates halves


_KIN = {
    "llama": _Kin("LLAMA", True),
    "mistral": _Kin("LLAMA", True),
    "qwen2": _Kin("QWEN2", False),
    "qwen3": _Kin("QWEN3", False),
}


def check_config(config: Any) -> None:
    """Raises ValueError for an architecture, or a variant of one, that is not written."""
    kind = config.model_type
    if kind not in _KIN:
        raise ValueError(f"architecture {kind!r}: GGUF is written of {', '.join(_KIN)} alone")
    rope = {**config.rope_parameters}
    window = getattr(config, "sliding_window", None)
    for wrong, what in (
        (rope.pop("rope_type", "default") != "default", "scaled rotary embeddings"),
        (rope.keys() - {"rope_theta"}, "rotary embeddings of another kind"),
        (config.hidden_act != "silu", f"activation {config.hidden_act}"),
        (window and window < config.max_position_embeddings, "a sliding window"),
    ):
        if wrong:
            raise ValueError(f"{kind} with {what}: is not written as GGUF")


class Names:
    """Of a model's parameters in GGUF, and the order of their rows there."""

    def __init__(self, config: Any) -> None:
        from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

        kin = _KIN[config.model_type]
        arch = MODEL_ARCH[kin.architecture]
        self.architecture: str = MODEL_ARCH_NAMES[arch]
        self._map = get_tensor_name_map(arch, config.num_hidden_layers)
        self._heads = {}
        if kin.turns_pairs:
            self._heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}

    def __getitem__(self, name: str) -> str:
        """Raises ValueError for a parameter that the architecture does not have in GGUF."""
        found = self._map.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ValueError(f"{name}: GGUF's {self.architecture} has no such tensor")
        return str(found)

    def in_order(self, name: str, tensor: Tensor) -> Tensor:
        """Rows as GGUF has them. name: of GGUF; tensor: [d_out, ...]."""
        part = name.split(".")[-2]
        heads = self._heads.get(part.removeprefix("attn_"))
        if heads is None:
            return tensor
        halves = tensor.unflatten(0, (heads, 2, -1))
        return halves.transpose(1, 2).reshape(tensor.shape)


def add_numbers(writer: Any, config: Any) -> None:
    """What llama.cpp builds the model from. writer: a gguf.GGUFWriter."""
    head_dim = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads
    )
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
