"""What a model's architecture allows the scoring engine to do, found by trying it."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from transformers import PreTrainedModel

from evaluation import tree_attention
from evaluation.layout import Batch, Layout, plan
from evaluation.sequences import Sequences

# Settings of transformers whose attention depends on places in the row.
_ROW_BOUND = ("alibi", "sliding_window", "attention_layers", "attention_chunk_size")
_PAIR = [([1, 2, 3, 4, 5], 2), ([1, 2, 6, 7, 8], 2)]


def model_inputs(model: PreTrainedModel, batch: Batch) -> dict[str, object]:
    """The model's arguments. In trees a token sees those before it that it descends from."""
    device = model.device
    input_ids = batch.input_ids.to(device, non_blocking=True).long()
    arguments: dict[str, object] = {"input_ids": input_ids, "use_cache": False}
    if batch.depth is not None and batch.end is not None:
        arguments["position_ids"] = batch.depth.to(device, non_blocking=True).long()
        if model.config._attn_implementation == tree_attention.NAME:
            arguments["attention_mask"] = batch.depth[:, None, None]
        else:
            arguments["attention_mask"] = _tree_mask(batch.end.to(device), model.dtype)
    return arguments


def _tree_mask(end: Tensor, dtype: torch.dtype) -> Tensor:
    """What torch's attention adds to the scores, [rows, 1, width, width]."""
    place = torch.arange(end.shape[1], device=end.device, dtype=torch.int32)
    seen = (place[:, None] >= place) & (place[:, None] < end[:, None])
    mask = torch.zeros(seen.shape, dtype=dtype, device=end.device)
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


def tree_pair_cost(model: PreTrainedModel) -> float | None:
    """`Layout.pair_cost` for a model. On a CPU its attention is replaced, where that is torch's,
    by one that costs nothing for pairs of tokens on different paths.

    Else by the multiply-adds of a transformer layer: 12 h^2 a token, 2 h a pair of tokens.
    """
    if not _reads_trees(model):
        return None
    own = model.config._attn_implementation
    if own == "sdpa" and model.device.type == "cpu" and model.dtype == torch.float32:
        model.set_attn_implementation(tree_attention.NAME)
        if _reads_trees(model):
            return 0.0
        model.set_attn_implementation(own)
    return 1 / (6 * int(model.config.get_text_config().hidden_size))


@torch.inference_mode()
def _reads_trees(model: PreTrainedModel) -> bool:
    """Whether a mask and positions of our own make the model read two sequences in one row.

    Not so where positions follow from the mask or the row (BLOOM), where the past is a state, and
    where a window or chunks of attention would be lost; a probe this short does not show all that.
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
    except (RuntimeError, TypeError, ValueError):
        return False
    expected = torch.cat([_hidden(model, batch) for batch in apart])
    if expected.isnan().any():  # a diverged model cannot tell: its architecture can
        return True
    error = (hidden - expected).abs().max()
    return bool(error <= 0.05 * (unmasked - expected).abs().max() + 1e-3 * expected.abs().max())


def _hidden(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Last hidden states at the scored positions, fp32 [n, hidden]."""
    states = model.base_model(**model_inputs(model, batch)).last_hidden_state
    return states.flatten(0, 1)[batch.positions.to(states.device).long()].float()
