"""Whether a row's scores depend on the rows beside it, found by trying.

They do where a model goes by the width of its input: rotary embeddings that scale with the longest
row (longrope, dynamic), masks made from the whole width (Doge), experts of limited capacity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from evaluation.engine import module_state

SHORT = 8  # tokens of the shortest row that is tried
# Of values' norm. Other kernels take other batches; in 16 bit that alone moves values by 1e-2.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
TOLERANCE_16_BIT = 0.1
_Place = tuple[int, str]  # a module's id, and the name in it


@dataclass(frozen=True)
class RowHabits:
    """alone: rows must not share a batch, since they change each other's scores.

    state: what forwards change in the model's modules, as it was before; with any, two threads must
    not share the model, and every forward starts from there.
    """

    alone: bool = False
    state: tuple[module_state.Entry, ...] = ()

    def joined(self, other: RowHabits) -> RowHabits:
        """With what another look at the same model has shown; values seen first stay."""
        places = {(id(e.module), e.name): e for e in (*other.state, *self.state)}
        return RowHabits(self.alone or other.alone, tuple(places.values()))


@torch.inference_mode()
def row_habits(
    model: PreTrainedModel, width: int, read: Callable[[Tensor], Tensor], shared: bool
) -> RowHabits:
    """What reading up to `width` tokens shows; two rows beside each other only if `shared`.

    read: ids int64 [rows, width] -> values [rows, width, d], hidden states or logits. The model's
    modules are left as they were.
    """
    before = module_state.entries(model)
    state: dict[_Place, module_state.Entry] = {}

    def attempt(ids: Tensor) -> tuple[Tensor, set[_Place]]:
        """The values, and what the forward changed, which is put back."""
        values = read(ids).float()
        left = {(id(entry.module), entry.name): entry for entry in module_state.changed(before)}
        module_state.put_back(left.values())
        state.update(left)
        return values, set(left)

    longest, *others = _rows(model, width)
    _, by_longest = attempt(longest[None])
    alone = False
    for row in others:
        expected, by_row = attempt(row[None])
        alone |= by_row != by_longest
        if shared:
            both = torch.stack([longest, nn.functional.pad(row, (0, width - len(row)))])
            values, _ = attempt(both)
            alone |= differ(values[1, : len(row)], expected[0], model.dtype)
    return RowHabits(alone, tuple(state.values()))


def _rows(model: PreTrainedModel, width: int) -> list[Tensor]:
    """A row as wide as can be, one somewhat shorter, and a short one; no two alike."""
    vocabulary = model.config.get_text_config().vocab_size
    lengths = sorted({width, max(2, 3 * width // 4), min(SHORT, width)}, reverse=True)
    return [
        (torch.arange(length, device=model.device) * 7 + 3 * number + 1) % vocabulary
        for number, length in enumerate(lengths)
    ]


def differ(values: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether values of a model in `dtype` are others by more than rounding."""
    if expected.isnan().any():  # a diverged model cannot tell: its architecture can
        return False
    allowed = TOLERANCE.get(dtype, TOLERANCE_16_BIT)
    return bool((values - expected).norm() > allowed * expected.norm())
