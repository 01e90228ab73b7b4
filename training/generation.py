"""Text that a model writes itself: what LLM-QAT trains on (Liu et al. 2023, section 2.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

GREEDY = (3, 5)  # tokens after the first that are the likeliest: at least, at most


@torch.no_grad()
def generated(model: Any, rows: int, length: int, generator: torch.Generator) -> Tensor:
    """int64 [rows, length] on the CPU: the first token of each row at random, three to five by
    likelihood, the rest sampled. The generator, on the CPU, decides."""
    device = model.device
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(vocabulary, (rows, 1), generator=generator)
    greedy = torch.randint(GREEDY[0], GREEDY[1] + 1, (rows,), generator=generator)
    past, tokens = None, [ids[:, 0]]
    for place in range(1, length):
        out = model(tokens[-1][:, None].to(device), past_key_values=past, use_cache=True)
        past, logits = out.past_key_values, out.logits[:, -1].float().cpu()
        sampled = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
        tokens.append(torch.where(place <= greedy, logits.argmax(-1), sampled))
    return torch.stack(tokens, 1)
