"""What a model's architecture allows the scoring engine to do, found by trying it."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from evaluation.engine import tree_attention
from evaluation.engine.layout import WIDEST_TREE, Batch, Layout, plan
from evaluation.engine.rows import differ
from evaluation.engine.sequences import Sequences

# Settings of transformers whose attention depends on places in the row.
_ROW_BOUND = ("alibi", "sliding_window", "attention_layers", "attention_chunk_size")
_PAIR = [([1, 2, 3, 4, 5], 2), ([1, 2, 6, 7, 8], 2)]
# Not cuDNN's, which torch may prefer: it takes some 30 ms to prepare for each new shape, and nearly
# every batch has a shape of its own.
_GPU_ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
# An estimate, which need not be close: between 1 and 16 the tasks' trees differ by 5 % in tokens.
_GPU_PAIR = 4


def attention_kernels(device: torch.device) -> AbstractContextManager[None]:
    """Within it torch's attention takes one of the kernels that suit batches of many shapes."""
    return nullcontext() if device.type == "cpu" else sdpa_kernel(_GPU_ATTENTION)


def model_inputs(model: PreTrainedModel, batch: Batch) -> dict[str, object]:
    """The model's arguments. In trees a token sees those before it that it descends from."""
    device = model.device
    input_ids = batch.input_ids.to(device).long()
    arguments: dict[str, object] = {"input_ids": input_ids, "use_cache": False}
    if batch.depth is not None and batch.end is not None:
        arguments["position_ids"] = batch.depth.to(device).long()
        if model.config._attn_implementation == tree_attention.NAME:
            arguments["attention_mask"] = batch.depth[:, None, None]
        else:
            arguments["attention_mask"] = _tree_mask(batch.end.to(device), model.dtype)
    return arguments


def _tree_mask(end: Tensor, dtype: torch.dtype) -> Tensor:
    """What torch's attention adds to the scores, [rows, 1, width, width]."""
    rows, width = end.shape
    place = torch.arange(width, device=end.device, dtype=torch.int32)
    seen = (place[:, None] >= place) & (place[:, None] < end[:, None])
    # A GPU's attention reads 8 numbers at once: masks of other strides it copies, at every layer.
    stride = -(-width // 8) * 8
    mask = torch.zeros((rows, width, stride), dtype=dtype, device=end.device)[..., :width]
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


@torch.inference_mode()
def head_can_stand_apart(model: PreTrainedModel) -> bool:
    """Whether output head of base model equals the whole model: not so where logits are scaled
    or capped after the head (Cohere, Gemma 2); those models are run whole."""
    if model.get_output_embeddings() is None or model.base_model is model:
        return False
    probe = torch.arange(8, device=model.device)[None]
    hidden = model.base_model(input_ids=probe, use_cache=False).last_hidden_state
    apart = model.get_output_embeddings()(hidden)
    whole = model(input_ids=probe, use_cache=False).logits
    return torch.allclose(apart, whole.to(apart.dtype), rtol=1e-3, equal_nan=True)


def read_states(model: PreTrainedModel, input_ids: Tensor) -> Tensor:
    """Last hidden states of plain rows, [rows, width, d]; logits of models without a base."""
    output = model.base_model(input_ids=input_ids, use_cache=False)
    states: Tensor = output.logits if "logits" in output else output.last_hidden_state
    return states


def tree_pair_cost(model: PreTrainedModel, layout: Layout) -> float | None:
    """`Layout.pair_cost` for a model that is otherwise laid out so. On a CPU its attention is
    replaced, where that is torch's, by one that costs nothing for pairs of tokens on different
    paths; some models (Falcon) have an attention of their own, which stays.

    Else by the multiply-adds of a transformer layer: 12 h^2 a token, 2 h a pair of tokens, which
    take a GPU longer in attention with a mask than in the linear layers.
    """
    if model.config._attn_implementation == tree_attention.NAME:  # of an earlier scorer
        model.set_attn_implementation("sdpa")
    if not _reads_trees(model, layout):
        return None
    before = model.config._attn_implementation
    if before == "sdpa" and model.device.type == "cpu" and model.dtype == torch.float32:
        model.set_attn_implementation(tree_attention.NAME)
        calls = tree_attention.calls
        if _reads_trees(model, layout) and tree_attention.calls > calls:
            return 0.0
        model.set_attn_implementation(before)
    pair = 1 if model.device.type == "cpu" else _GPU_PAIR
    return pair / (6 * int(model.config.get_text_config().hidden_size))


@torch.inference_mode()
def _reads_trees(model: PreTrainedModel, layout: Layout) -> bool:
    """Whether a mask and positions of our own make the model read many sequences in one row.

    Not so where positions follow from the mask or the row (BLOOM), where the past is a state, and
    where a window or chunks of attention would be lost: rows as wide as any are tried too.
    """
    config = model.config.get_text_config()
    odd = any(getattr(config, name, None) for name in _ROW_BOUND)
    odd |= bool(set(getattr(config, "layer_types", None) or ()) - {"full_attention"})
    if odd or "position_ids" not in inspect.signature(model.base_model.forward).parameters:
        return False
    tree = plan(Sequences.of(_PAIR), Layout(8, 16, 0.0)).batches
    apart = plan(Sequences.of(_PAIR), Layout(8, 4)).batches
    try:
        (hidden,) = (_hidden(model, batch) for batch in tree)
        unmasked = _hidden(model, Batch(tree[0].input_ids, tree[0].positions, tree[0].targets))
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a model's own code makes of such a mask: XLM asserts its shape
        return False
    expected = torch.cat([_hidden(model, batch) for batch in apart])
    if expected.isnan().any():  # a diverged model cannot tell: its architecture can
        return True
    error = (hidden - expected).abs().max()
    rounding = max(1e-3, 4 * torch.finfo(model.dtype).eps)  # of 16-bit models, on other kernels
    allowed = 0.05 * (unmasked - expected).abs().max() + rounding * expected.abs().max()
    return bool(error <= allowed) and _reads_wide_trees(model, layout)


def _reads_wide_trees(model: PreTrainedModel, layout: Layout) -> bool:
    """The same of one tree as wide as any, whose sequences are no longer than the model reads."""
    widest = min(WIDEST_TREE, layout.tokens_per_batch)
    tip = max(1, min(layout.max_length // 2, widest // 4, 64))
    stem = [5] * min(4, tip)
    vocabulary = model.config.get_text_config().vocab_size
    tips = range((widest - len(stem)) // tip)
    sequences = Sequences.of(
        [
            (stem + [(7 * number + place) % vocabulary for place in range(tip + 1)], 1)
            for number in tips
        ]
    )
    apart, together = (plan(sequences, replace(layout, pair_cost=cost)) for cost in (None, 0.0))
    states = []
    for plans in (apart, together):
        found = torch.cat([_hidden(model, batch) for batch in plans.batches])
        states.append(found[np.argsort(plans.order)])
    return not differ(states[1], states[0], model.dtype)


def _hidden(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Last hidden states at the scored positions, fp32 [n, hidden]."""
    states = model.base_model(**model_inputs(model, batch)).last_hidden_state
    return states.flatten(0, 1)[batch.positions.to(states.device).long()].float()
