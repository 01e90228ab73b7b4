"""Where the weight matrices of a causal language model are, and what feeds each of them.

Proxy quantization needs, for every input dimension of a matrix, the unit that produces it: a row
of an earlier matrix. Per block the order is QKV, attention output, FFN1, FFN2 (paper, section 3):

    previous block's FFN2 -> QKV;  V -> attention output;  attention output -> FFN1 -> FFN2

Blocks with parallel attention and FFN (GPT-NeoX) keep this order. Row numbers are those of the
output x input layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class Producer:
    """Input dimension j of a matrix is produced by row rows[j] (int64 [d_in]) of `matrix`."""

    matrix: str
    rows: Tensor


@dataclass(frozen=True)
class Matrix:
    """A weight matrix, named as its module is. `transposed`: stored input x output (Conv1D)."""

    name: str
    module: nn.Module
    transposed: bool = False
    producer: Producer | None = None

    @property
    def parameter(self) -> nn.Parameter:
        """The weight: [d_out, d_in], or [d_in, d_out] if transposed."""
        weight = self.module.weight
        assert isinstance(weight, nn.Parameter)
        return weight


@dataclass(frozen=True)
class _Block:
    """Module names of one decoder block."""

    qkv: list[str]
    value: str  # the matrix that holds V ...
    value_rows: Tensor  # ... and its row behind each input dimension of the attention output
    attention_output: str
    ffn1: list[str]  # the last one feeds FFN2: `up` of a gated MLP
    ffn2: str


def _gpt2_block(model: Any, i: int) -> _Block:
    p, hidden = f"transformer.h.{i}", model.config.hidden_size
    qkv = f"{p}.attn.c_attn"  # Q, K, V one after the other
    v_rows = 2 * hidden + torch.arange(hidden)
    return _Block([qkv], qkv, v_rows, f"{p}.attn.c_proj", [f"{p}.mlp.c_fc"], f"{p}.mlp.c_proj")


def _opt_block(model: Any, i: int) -> _Block:
    p, hidden = f"model.decoder.layers.{i}", model.config.hidden_size
    q, k, v = (f"{p}.self_attn.{x}_proj" for x in "qkv")
    return _Block(
        [q, k, v], v, torch.arange(hidden), f"{p}.self_attn.out_proj", [f"{p}.fc1"], f"{p}.fc2"
    )


def _interleaved_value_rows(heads: int, head_dim: int) -> Tensor:
    """V's rows of a fused matrix laid out head by head as (q, k, v), each head_dim rows."""
    head = torch.arange(heads).repeat_interleave(head_dim)
    return head * 3 * head_dim + 2 * head_dim + torch.arange(head_dim).repeat(heads)


def _gpt_neox_block(model: Any, i: int) -> _Block:
    p, heads = f"gpt_neox.layers.{i}", model.config.num_attention_heads
    qkv = f"{p}.attention.query_key_value"
    v_rows = _interleaved_value_rows(heads, model.config.hidden_size // heads)
    ffn1, ffn2 = f"{p}.mlp.dense_h_to_4h", f"{p}.mlp.dense_4h_to_h"
    return _Block([qkv], qkv, v_rows, f"{p}.attention.dense", [ffn1], ffn2)


def _bloom_block(model: Any, i: int) -> _Block:
    p, heads = f"transformer.h.{i}", model.config.n_head
    qkv = f"{p}.self_attention.query_key_value"
    v_rows = _interleaved_value_rows(heads, model.config.hidden_size // heads)
    ffn1, ffn2 = f"{p}.mlp.dense_h_to_4h", f"{p}.mlp.dense_4h_to_h"
    return _Block([qkv], qkv, v_rows, f"{p}.self_attention.dense", [ffn1], ffn2)


def _llama_block(model: Any, i: int) -> _Block:
    p = f"model.layers.{i}"
    q, k, v, o = (f"{p}.self_attn.{x}_proj" for x in "qkvo")
    # With grouped queries each V unit serves its whole group of neighbouring query heads.
    head_dim = model.get_submodule(f"{p}.self_attn").head_dim
    heads, kv_heads = model.config.num_attention_heads, model.config.num_key_value_heads
    kv_head = torch.arange(heads).div(heads // kv_heads, rounding_mode="floor")
    v_rows = kv_head.repeat_interleave(head_dim) * head_dim + torch.arange(head_dim).repeat(heads)
    ffn1 = [f"{p}.mlp.gate_proj", f"{p}.mlp.up_proj"]
    return _Block([q, k, v], v, v_rows, o, ffn1, f"{p}.mlp.down_proj")


_BLOCKS = {
    "gpt2": _gpt2_block,
    "opt": _opt_block,
    "gpt_neox": _gpt_neox_block,
    "bloom": _bloom_block,
    "llama": _llama_block,
    "mistral": _llama_block,
    "qwen2": _llama_block,
    "qwen3": _llama_block,
}


def knows_producers(model: Any) -> bool:
    """Whether proxy quantization can be done: the architecture is one whose wiring is known."""
    return model.config.model_type in _BLOCKS


def linear_matrices(model: Any) -> list[Matrix]:
    """Attention and FFN projections, and OPT-350m's around its blocks, in forward order.

    An architecture that is not known gets every linear layer of its decoder blocks, in the order
    of registration, without producers. Raises ValueError where the blocks cannot be found, or hold
    weights in a kind of layer that would be left out.
    """
    if not knows_producers(model):
        return _linears_of_unknown(model)
    describe = _BLOCKS[model.config.model_type]
    matrices: list[Matrix] = []
    previous_ffn2: str | None = None

    def add(name: str, produced_by: str | None, rows: Tensor | None = None) -> None:
        module = model.get_submodule(name)
        producer = None
        if produced_by is not None:
            if rows is None:
                rows = torch.arange(_d_in(module, name))
            producer = Producer(produced_by, rows)
        matrices.append(_linear(name, module, producer))

    for i in range(model.config.num_hidden_layers):
        block = describe(model, i)
        for name in block.qkv:
            add(name, previous_ffn2)
        add(block.attention_output, block.value, block.value_rows)
        for name in block.ffn1:
            add(name, block.attention_output)
        add(block.ffn2, block.ffn1[-1])
        previous_ffn2 = block.ffn2

    if model.config.model_type == "opt" and model.model.decoder.project_in is not None:
        outer = [f"model.decoder.{x}" for x in ("project_in", "project_out")]
        first, last = (_linear(name, model.get_submodule(name), None) for name in outer)
        matrices = [first, *matrices, last]
    return matrices


def embedding_matrices(model: Any) -> list[Matrix]:
    """All embeddings (token and learned position) and the output head: what scope "all" adds.

    A head tied to the token embedding is the same matrix and appears once, as the embedding.
    """
    modules = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Embedding)]
    head = model.get_output_embeddings()
    modules += [(n, m) for n, m in model.named_modules() if m is head]
    unique = {id(module.weight): Matrix(name, module) for name, module in reversed(modules)}
    return list(reversed(unique.values()))


def _d_in(module: nn.Module, name: str) -> int:
    weight = _linear(name, module, None).parameter
    return weight.shape[0] if isinstance(module, Conv1D) else weight.shape[1]


def _linear(name: str, module: nn.Module, producer: Producer | None) -> Matrix:
    if not isinstance(module, nn.Linear | Conv1D) or not module.weight.is_floating_point():
        raise ValueError(
            f"{name}: unknown layer type {type(module).__name__}; "
            "only nn.Linear and Conv1D with floating-point weights can be quantized"
        )
    return Matrix(name, module, isinstance(module, Conv1D), producer)


def _linears_of_unknown(model: Any) -> list[Matrix]:
    n_layers = getattr(model.config, "num_hidden_layers", None)
    stacks = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]
    if not stacks:
        raise ValueError(
            f"architecture {model.config.model_type!r}: found no list of "
            f"{n_layers} decoder blocks, so no matrices to quantize"
        )
    # The outermost stack: a list inside the blocks may happen to be as long.
    prefix, stack = stacks[0]
    matrices = []
    for name, module in stack.named_modules(prefix=prefix):
        if isinstance(module, nn.Linear | Conv1D):
            matrices.append(_linear(name, module, None))
        elif any(p.dim() > 1 for p in module.parameters(recurse=False)):
            raise ValueError(
                f"{name}: unknown layer type {type(module).__name__} holds weights; "
                f"architecture {model.config.model_type!r} cannot be quantized"
            )
    return matrices
