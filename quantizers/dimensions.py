"""The sizes of a model's matrices, as its config.json tells them. Torch-free: sweeps are planned
with them before any model is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from quantizers.setting import Setting

# Dense models with a file in `wiring/`; of some the FFN is four times as wide unless they say more.
_FOUR_TIMES = frozenset(("bloom", "falcon", "gpt2", "gptj"))
_KNOWN = _FOUR_TIMES | {"gpt_neox", "llama", "mistral", "opt", "phi", "qwen2", "qwen3"}


@dataclass(frozen=True)
class Dimensions:
    """What the matrices of a dense decoder read."""

    layers: int
    hidden: int
    attention: int  # what the attention output reads: heads x their size
    ffn: int  # what the down projection reads
    embedding: int  # of a token, hidden where it is not projected (OPT-350m)
    head: bool  # whether the output head is a matrix of its own

    @property
    def block(self) -> tuple[int, ...]:
        """The inputs of a block: of QKV, of the attention output, of up, of down."""
        return self.hidden, self.attention, self.hidden, self.ffn

    @property
    def rows(self) -> set[int]:
        """How long the rows of all matrices are, embeddings too."""
        return {*self.block, self.embedding}


def dimensions(config: Mapping[str, Any]) -> Dimensions | None:
    """None where the architecture is not known or the config leaves a size to a default."""
    kind = config.get("model_type")
    hidden = _first(config, "hidden_size", "n_embd", "n_embed")
    layers = _first(config, "num_hidden_layers", "n_layer")
    heads = _first(config, "num_attention_heads", "n_head")
    ffn = _first(config, "intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")
    if kind in _FOUR_TIMES and hidden:
        ffn = ffn or 4 * hidden
    if kind not in _KNOWN or not (hidden and layers and heads and ffn):
        return None
    head_dim = _first(config, "head_dim") or hidden // heads
    embedding = _first(config, "word_embed_proj_dim") or hidden
    head = config.get("tie_word_embeddings") is False
    return Dimensions(layers, hidden, heads * head_dim, ffn, embedding, head)


def groups_are_blocks(config: Mapping[str, Any], setting: Setting) -> bool:
    """Whether groups along rows are the blocks along whole tensors, since they divide every row, as
    far as the config tells. Columns that stay in 16 bit leave a row; the first block has none."""
    if not setting.by_row or setting.block_size is None:
        return False
    sizes = dimensions(config)
    if sizes is None:
        return False
    fraction = Fraction(str(setting.outlier_fraction))  # as proxy quantization counts them
    lengths = sizes.rows | {row - math.ceil(fraction * row) for row in sizes.rows}
    return all(length % setting.block_size == 0 for length in lengths)


def _first(config: Mapping[str, Any], *names: str) -> int | None:
    return next((int(config[name]) for name in names if config.get(name)), None)
