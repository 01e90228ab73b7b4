"""Attention over rows that hold trees of sequences, on the CPU, compiled by Numba.

The tokens of a row come in depth-first order (see `layout`), so the keys that a token
sees are the last ones at each depth up to its own. They are kept by depth, and every token reads
just those: no mask, and no work for pairs of tokens on different paths, which are most of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from quantizers.kernels.exponential import exponential
from quantizers.kernels.jit import compiled

NAME = "kbit_tree"  # among transformers' attention implementations
calls = 0  # of the attention over trees by models: whether a model has it at all is counted
_TOGETHER = 4  # consecutive tokens of one sequence that read the values together
_UNROLLED = 8  # dimensions of a head taken in one pass over the keys

# Sums may be reordered; nan and inf keep their meaning, since diverged models must stay diverged.
_FASTMATH = frozenset({"reassoc", "contract", "nsz", "arcp"})
_SIGNATURE = (
    "void(f4[:,:,:,:], f4[:,:,:,:], f4[:,:,:,:], i4[:,::1], f4,"
    " f4[:,::1], f4[::1], f4[:,::1], f4[:,::1], f4[:,:,:,::1])"
)


def tree_attention(
    query: Tensor, key: Tensor, value: Tensor, depth: Tensor, scale: float
) -> Tensor:
    """Attention of every token to the tokens on its path, fp32 [rows, width, heads, d].

    query fp32 [rows, heads, width, d]; key and value have as many heads or a divisor of that;
    depth int32 [rows, width]: each token's place in its sequence, in depth-first order. All on the
    CPU. Softmax in fp32 within 1e-6 of torch's. Raises ValueError for other shapes.
    """
    rows, heads, width, size = query.shape
    alike = key.shape == value.shape == (rows, key.shape[1], width, size)
    if not alike or heads % key.shape[1] or depth.shape != (rows, width):
        shapes = ", ".join(str(list(x.shape)) for x in (query, key, value, depth))
        raise ValueError(f"query, key, value and depth do not go together: {shapes}")
    padded = -(-size // _UNROLLED) * _UNROLLED
    scores, powers = np.empty((_TOGETHER, width), np.float32), np.empty(width, np.float32)
    keys, values = (np.zeros((padded, width), np.float32) for _ in range(2))
    out = np.empty((rows, width, heads, size), np.float32)
    arrays = (query.numpy(), key.numpy(), value.numpy(), depth.numpy(), np.float32(scale))
    compiled(_attend, _SIGNATURE, _FASTMATH)(*arrays, scores, powers, keys, values, out)
    return torch.from_numpy(out)


def _forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' interface: in place of a mask, depths (int32 [rows, 1, 1, width]) say that the
    rows are trees. All else is torch's attention, as without this."""
    if attention_mask is None or attention_mask.dtype != torch.int32:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    global calls
    calls += 1
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return tree_attention(query, key, value, attention_mask[:, 0, 0], scale), None


AttentionInterface.register(NAME, _forward)
AttentionMaskInterface.register(NAME, sdpa_mask)


def _attend(query, key, value, depth, scale, scores, powers, keys, values, out):  # type: ignore[no-untyped-def]
    """Loops over one index and few arrays each: others the compiler does not make vectors of."""
    rows, heads, width, size = query.shape
    padded = keys.shape[0]
    shared = heads // key.shape[1]
    exponents = powers.view(np.int32)
    lanes = np.empty(16, np.float32)
    q = np.zeros((4, padded), np.float32)
    inverse = np.zeros(4, np.float32)
    scores[:] = 0
    for row in range(rows):
        for head in range(heads):
            i = 0
            while i < width:
                first, count = depth[row, i], 1
                while count < 4 and i + count < width and depth[row, i + count] == first + count:
                    count += 1
                n = first + count
                for c in range(count):
                    for d in range(size):
                        q[c, d] = query[row, head, i + c, d] * scale
                        keys[d, first + c] = key[row, head // shared, i + c, d]
                        values[d, first + c] = value[row, head // shared, i + c, d]

                for c in range(count):
                    s, seen = scores[c], first + c + 1
                    s[:n] = 0
                    for d in range(0, padded, 8):
                        k0, k1, k2, k3 = keys[d], keys[d + 1], keys[d + 2], keys[d + 3]
                        k4, k5, k6, k7 = keys[d + 4], keys[d + 5], keys[d + 6], keys[d + 7]
                        q0, q1, q2, q3 = q[c, d], q[c, d + 1], q[c, d + 2], q[c, d + 3]
                        q4, q5, q6, q7 = q[c, d + 4], q[c, d + 5], q[c, d + 6], q[c, d + 7]
                        for j in range(seen):
                            s[j] += (
                                (q0 * k0[j] + q1 * k1[j])
                                + (q2 * k2[j] + q3 * k3[j])
                                + (q4 * k4[j] + q5 * k5[j])
                                + (q6 * k6[j] + q7 * k7[j])
                            )

                    largest = s[0]
                    lanes[:] = largest
                    for begin in range(0, seen - 15, 16):
                        for j in range(16):
                            lanes[j] = s[begin + j] if s[begin + j] > lanes[j] else lanes[j]
                    for j in range(16):
                        largest = lanes[j] if lanes[j] > largest else largest
                    for j in range(seen // 16 * 16, seen):
                        largest = s[j] if s[j] > largest else largest

                    for j in range(seen):
                        s[j], exponents[j] = exponential(s[j] - largest)
                    total = np.float32(0)
                    for j in range(seen):
                        s[j] *= powers[j]
                        total += s[j]
                    inverse[c] = np.float32(1) / total
                    s[seen:n] = 0

                s0, s1, s2, s3 = scores[0], scores[1], scores[2], scores[3]
                for d in range(size):
                    v = values[d]
                    o0, o1, o2, o3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
                    for j in range(n):
                        o0 += s0[j] * v[j]
                        o1 += s1[j] * v[j]
                        o2 += s2[j] * v[j]
                        o3 += s3[j] * v[j]
                    out[row, i, head, d] = o0 * inverse[0]
                    if count > 1:
                        out[row, i + 1, head, d] = o1 * inverse[1]
                    if count > 2:
                        out[row, i + 2, head, d] = o2 * inverse[2]
                    if count > 3:
                        out[row, i + 3, head, d] = o3 * inverse[3]
                i += count
