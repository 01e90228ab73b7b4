"""Whether a norm and a matrix behind it still compute what they did, on a few tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

N_TOKENS = 8
_TOLERANCE, _TOLERANCE_OF_OUTLIERS, _OUTLIER = 1e-5, 1e-4, 64


def norm_inputs(model: Any, norms: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """What reaches each norm, fp32 [tokens, d], of a few tokens that are always the same."""
    seen: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(norm).register_forward_pre_hook(
            lambda _, inputs, norm=norm: seen.__setitem__(norm, inputs[0].flatten(0, -2).float())
        )
        for norm in norms
    ]
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(vocabulary, (1, N_TOKENS), generator=torch.Generator().manual_seed(0))
    try:
        model(ids.to(model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    yield from seen.items()


def check_outputs(before: Tensor, after: Tensor, scales: Tensor, place: str) -> None:
    """Raise ValueError unless max|after - before| <= 1e-5 max|before| (1e-4 where channels differ
    by 64 and more); scales: of the channels that were folded; place: what computed them."""
    error, size = float((after - before).abs().max()), float(before.abs().max())
    scales = scales[scales > 0]
    apart = len(scales) and float(scales.max()) >= _OUTLIER * float(scales.min())
    limit = _TOLERANCE_OF_OUTLIERS if apart else _TOLERANCE
    if not error <= limit * size:
        raise ValueError(
            f"folding: {place} changes by {error / size:.1e} of its largest output, more than "
            f"{limit:g}"
        )
