from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from evaluation.engine.abilities import _tree_mask
from evaluation.engine.layout import Layout, plan
from evaluation.engine.sequences import Sequences
from evaluation.engine.tree_attention import tree_attention
from tests.evaluation.engine.test_scoring import branching_sequences, random_sequences
from tests.evaluation.tiny_models import CONTEXT


def rows_of_trees() -> tuple[Tensor, Tensor]:
    """depth and end, int32 [rows, width], of rows with trees in trees, single tokens and padding"""
    pairs = branching_sequences(48) + random_sequences(4) + [([1, 2], 1)]
    pairs += [([9, *range(length)], 1) for length in range(1, 30)]  # each the beginning of the next
    batch = max(
        plan(Sequences.of(pairs), Layout(CONTEXT, 400, 0.002)).batches,
        key=lambda batch: batch.input_ids.numel() * (batch.depth is not None),
    )
    assert batch.depth is not None and batch.end is not None and len(batch.depth) > 1
    return batch.depth, batch.end


def reference(q: Tensor, k: Tensor, v: Tensor, end: Tensor, scale: float) -> Tensor:
    """torch's, in float64, with a mask; [rows, width, heads, d]."""
    mask, groups = _tree_mask(end, torch.float64), q.shape[1] // k.shape[1]
    k, v = (x.double().repeat_interleave(groups, dim=1) for x in (k, v))
    out = scaled_dot_product_attention(q.double(), k, v, attn_mask=mask, scale=scale)
    return out.transpose(1, 2)


def random_inputs(shape: tuple[int, int], heads: int, kv_heads: int, size: int) -> list[Tensor]:
    rows, width = shape
    generator = torch.Generator().manual_seed(size)
    # As a linear layer leaves them: the heads of a token beside each other.
    return [
        torch.randn(rows, width, n, size, generator=generator).transpose(1, 2)
        for n in (heads, kv_heads, kv_heads)
    ]


@pytest.mark.parametrize("size", [1, 5, 8, 16, 40, 64])
@pytest.mark.parametrize("heads, kv_heads", [(2, 2), (4, 2), (6, 1)])
def test_equals_torchs_attention_with_a_mask(size, heads, kv_heads):
    depth, end = rows_of_trees()
    q, k, v = random_inputs(tuple(depth.shape), heads, kv_heads, size)
    scale = size**-0.5
    ours, expected = tree_attention(q, k, v, depth, scale), reference(q, k, v, end, scale)
    assert ours.shape == expected.shape and ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), expected, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("size", [8, 64])
def test_large_scores_do_not_overflow(size):
    depth, end = rows_of_trees()
    q, k, v = random_inputs(tuple(depth.shape), 2, 2, size)
    ours = tree_attention(100 * q, k, v, depth, 1.0)
    expected = reference(100 * q, k, v, end, 1.0)
    # Scores of some hundreds are themselves only known to about 1e-4 in fp32.
    torch.testing.assert_close(ours.double(), expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_a_number_stays_on_its_path(bad):
    depth, end = rows_of_trees()
    q, k, v = random_inputs(tuple(depth.shape), 2, 2, 8)
    leaf = int((end[0] == torch.arange(1, end.shape[1] + 1)).nonzero()[0])  # nobody else sees it
    expected = reference(q, k, v, end, 0.3)
    k[0, :, leaf] = bad
    ours = tree_attention(q, k, v, depth, 0.3)
    assert ours[0, leaf].isnan().any()
    kept = torch.ones(depth.shape, dtype=torch.bool)
    kept[0, leaf] = False
    torch.testing.assert_close(ours[kept].double(), expected[kept], atol=2e-6, rtol=2e-6)


def test_shapes_that_do_not_go_together_are_refused():
    depth, _ = rows_of_trees()
    q, k, v = random_inputs(tuple(depth.shape), 4, 2, 8)
    wrong = [
        (q, k, v[..., :4], depth),
        (q, k[:, :, 1:], v[:, :, 1:], depth),
        (q[:, :3], k, v, depth),
        (q, k, v, depth[:1]),
    ]
    for arguments in wrong:
        with pytest.raises(ValueError, match="do not go together"):
            tree_attention(*arguments, 0.3)
