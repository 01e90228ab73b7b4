"""What must not be given beside a packed tensor: found before any launch, said in one line."""

from __future__ import annotations

import torch
from torch import Tensor

from quantizers.packed import PackedTensor


def check_values(values: Tensor, q: PackedTensor) -> None:
    """Raises ValueError unless `values` are what q has place for: [n], contiguous, its type."""
    if values.shape != (q.n,) or values.dtype != q.dtype or values.device != q.device:
        raise ValueError(
            f"values: must be {q.dtype} [{q.n}] on {q.device}, not {values.dtype} "
            f"{list(values.shape)} on {values.device}"
        )
    if not values.is_contiguous():
        raise ValueError("values: must be contiguous")


def check_product(x: Tensor, q: PackedTensor, bias: Tensor | None) -> None:
    """Raises ValueError for an x that is not floating [..., d_in] beside the weights [d_out, d_in],
    and for a bias that is not [d_out] there."""
    if len(q.shape) != 2:
        raise ValueError(f"weights: must be a matrix, not of shape {tuple(q.shape)}")
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise ValueError(f"x: must be float16, bfloat16 or float32, not {x.dtype}")
    if x.dim() < 1 or x.shape[-1] != q.shape[1]:
        raise ValueError(f"x: must have {q.shape[1]} columns, not shape {tuple(x.shape)}")
    if x.device != q.device:
        raise ValueError(f"x: is on {x.device}, the weights are on {q.device}")
    if bias is None:
        return
    if bias.shape != q.shape[:1]:
        raise ValueError(f"bias: has shape {tuple(bias.shape)}, not ({q.shape[0]},)")
    if bias.device != q.device:
        raise ValueError(f"bias: is on {bias.device}, the weights are on {q.device}")


def check_targets(logits: Tensor, targets: Tensor) -> None:
    """Raises ValueError unless there is one int64 token a row of floating logits."""
    if logits.dim() != 2 or not logits.is_floating_point():
        raise ValueError(
            f"logits: must be floating [n, vocabulary], not {logits.dtype} "
            f"of shape {tuple(logits.shape)}"
        )
    if targets.shape != logits.shape[:1] or targets.dtype != torch.int64:
        raise ValueError(
            f"targets: must be int64 [{len(logits)}], not {targets.dtype} "
            f"of shape {tuple(targets.shape)}"
        )
    if targets.device != logits.device:
        raise ValueError(f"targets: is on {targets.device}, the logits are on {logits.device}")
