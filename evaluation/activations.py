"""How large the features are that reach each weight matrix, recorded on text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def input_magnitudes(
    model: Any, matrices: Iterable[tuple[str, nn.Module]], windows: Sequence[Sequence[int]]
) -> dict[str, Tensor]:
    """Mean |x| of every input feature of each (name, layer): fp64 [d_in] by name.

    `windows`: token ids, each window at most the model's context; every token counts alike. A
    layer that no window reaches is left out. Raises ValueError without windows.
    """
    if not windows:
        raise ValueError("recording activations needs text: no windows of tokens were given")
    total: dict[str, Tensor] = {}
    tokens: dict[str, int] = {}

    def record(name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            features = inputs[0].detach().flatten(0, -2).double().abs()
            total[name] = total.get(name, torch.zeros(())) + features.sum(dim=0).cpu()
            tokens[name] = tokens.get(name, 0) + len(features)

        return hook

    hooks = [module.register_forward_pre_hook(record(name)) for name, module in matrices]
    try:
        for window in windows:
            model(torch.tensor([list(window)], device=model.device))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: summed / tokens[name] for name, summed in total.items()}
