"""How sequences become batches: shared prefixes once, rows of nearly equal width.

Sequences that begin alike (the choices of one question) form a tree: a row holds its tokens in
depth-first order, each read once, and a token sees exactly those on its own path. Such a row costs
the sum of its distinct tokens; an attention that goes by a mask computes the pairs of tokens on
different paths too (`Layout.pair_cost`). The layout depends on the sequences and on the model's
shape alone, never on its weights, so two precisions of a model are compared on identical batches.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evaluation.engine.sequences import Sequences

log = logging.getLogger(__name__)

WIDEST_TREE = 2048  # tokens: a mask grows with the square


@dataclass(frozen=True)
class Layout:
    """What a layout depends on besides the sequences.

    max_length: tokens the model reads; longer sequences lose tokens on the left.
    tokens_per_batch: positions of a batch, padding counted; a longer sequence stands alone.
    pair_cost: cost of a query-key pair of the attention over that of passing a token through the
    linear layers, 0 where pairs on different paths cost nothing; None: the model reads plain
    sequences only, and nothing is shared.
    """

    max_length: int
    tokens_per_batch: int
    pair_cost: float | None = None


@dataclass(frozen=True)
class Batch:
    """Right-padded rows and the positions to score. All int32; laid out on the CPU.

    input_ids [rows, width]; positions [n] index the flattened rows x width; targets [n] are the
    tokens that follow them. In batches of trees, depth [rows, width] is each token's place in its
    sequence, and it is seen by itself and the tokens after it up to `end` (exclusive) in the row.
    """

    input_ids: Tensor
    positions: Tensor
    targets: Tensor
    depth: Tensor | None = None
    end: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        rows = (self.input_ids, self.positions, self.targets, self.depth, self.end)
        return Batch(*(None if x is None else x.to(device) for x in rows))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Plan:
    """Batches, and how to get back: `order[i]` is the sequence laid out i-th, int64 [n]."""

    batches: tuple[Batch, ...]
    order: np.ndarray
    lengths: np.ndarray  # scored tokens of the sequence laid out i-th, int64 [n]
    longest: int  # tokens read of the longest sequence


@dataclass(frozen=True)
class _Row:
    """One tree, or one sequence. `members`: (sequence, its scored positions in the row)."""

    tokens: np.ndarray
    depth: np.ndarray
    end: np.ndarray
    members: list[tuple[int, np.ndarray]]

    @property
    def is_tree(self) -> bool:
        return len(self.members) > 1


def plan(sequences: Sequences, layout: Layout) -> Plan:
    """The batches of these sequences. Trees come first, then the widest rows.

    Raises ValueError where the tokens to score exceed what the model reads.
    """
    if (too_long := np.flatnonzero(sequences.scored > layout.max_length)).size:
        raise ValueError(
            f"request {too_long[0]}: a continuation of {sequences.scored[too_long[0]]} tokens "
            f"exceeds the model's context of {layout.max_length}"
        )
    if cut := int((sequences.lengths > layout.max_length + 1).sum()):
        message = "%d of %d contexts cut on the left to fit %d tokens"
        log.warning(message, cut, len(sequences), layout.max_length)
    inputs = _inputs(sequences, layout.max_length)
    groups = _groups(inputs, layout)
    rows = [_row(group, inputs, sequences.scored) for group in groups]
    rows.sort(key=lambda row: -len(row.tokens))
    trees, singles = [r for r in rows if r.is_tree], [r for r in rows if not r.is_tree]
    batches = []
    for rows in (trees, singles):
        start = 0
        while start < len(rows):
            width = len(rows[start].tokens)
            chosen = rows[start : start + max(1, layout.tokens_per_batch // width)]
            batches.append(_batch(chosen, sequences))
            start += len(chosen)
    order = np.array([i for row in trees + singles for i, _ in row.members], dtype=np.int64)
    longest = max((len(tokens) for tokens in inputs), default=0)
    return Plan(tuple(batches), order, sequences.scored[order], longest)


def _inputs(sequences: Sequences, max_length: int) -> list[np.ndarray]:
    """What the model reads of each sequence: all but the last token, cut on the left."""
    ends = sequences.starts[1:] - 1
    starts = np.maximum(sequences.starts[:-1], ends - max_length)
    spans = zip(starts.tolist(), ends.tolist(), strict=True)
    return [sequences.tokens[start:end] for start, end in spans]


def _groups(inputs: list[np.ndarray], layout: Layout) -> Iterator[list[tuple[int, int]]]:
    """The sequences of each row as (sequence, tokens shared with the one before it)."""
    if layout.pair_cost is None:
        yield from ([(i, 0)] for i in range(len(inputs)))
        return
    widest = min(WIDEST_TREE, layout.tokens_per_batch)
    # Big-endian bytes sort as the tokens do, so sequences that begin alike become neighbours.
    keys = [tokens.astype(">u4").tobytes() for tokens in inputs]
    group: list[tuple[int, int]] = []
    width, last = 0, np.empty(0, np.int32)
    for i in sorted(range(len(inputs)), key=keys.__getitem__):
        tokens = inputs[i]
        shared = _common(last, tokens)
        new = len(tokens) - shared
        joined = new + layout.pair_cost * (2 * width * new + new * new)
        alone = len(tokens) + layout.pair_cost * len(tokens) ** 2
        if group and joined < alone and width + new <= widest:
            group.append((i, shared))
            width += new
        else:
            if group:
                yield group
            group, width = [(i, 0)], len(tokens)
        last = tokens
    if group:
        yield group


def _common(one: np.ndarray, other: np.ndarray) -> int:
    """Length of the common beginning."""
    n = min(len(one), len(other))
    differ = one[:n] != other[:n]
    first = int(differ.argmax()) if n else 0
    return first if n and differ[first] else n


def _row(group: list[tuple[int, int]], inputs: list[np.ndarray], scored: np.ndarray) -> _Row:
    width = sum(len(inputs[i]) - shared for i, shared in group)
    tokens, depth, end = (np.empty(width, np.int32) for _ in range(3))
    path = np.empty(max(len(inputs[i]) for i, _ in group), np.int32)  # of the last sequence
    members, used, length = [], 0, 0
    for i, shared in group:
        end[path[shared:length]] = used  # what this sequence does not share has been left
        length = len(inputs[i])
        new = slice(used, used + length - shared)
        tokens[new] = inputs[i][shared:]
        depth[new] = np.arange(shared, length)
        path[shared:length] = np.arange(new.start, new.stop)
        used = new.stop
        members.append((i, path[length - scored[i] : length].copy()))
    end[path[:length]] = used
    return _Row(tokens, depth, end, members)


def _batch(rows: list[_Row], sequences: Sequences) -> Batch:
    width = max(len(row.tokens) for row in rows)
    # A causal model never looks at the padding to the right, so any valid id will do.
    input_ids, depth = (np.zeros((len(rows), width), np.int32) for _ in range(2))
    end = np.tile(np.arange(1, width + 1, dtype=np.int32), (len(rows), 1))
    positions, targets = [], []
    for number, row in enumerate(rows):
        used = len(row.tokens)
        input_ids[number, :used], depth[number, :used] = row.tokens, row.depth
        end[number, :used] = row.end
        for i, scored in row.members:
            positions.append(scored + np.int32(number * width))
            stop = sequences.starts[i + 1]
            targets.append(sequences.tokens[stop - sequences.scored[i] : stop].astype(np.int32))
    trees = any(row.is_tree for row in rows)
    return Batch(
        torch.from_numpy(input_ids),
        torch.from_numpy(np.concatenate(positions)),
        torch.from_numpy(np.concatenate(targets)),
        torch.from_numpy(depth) if trees else None,
        torch.from_numpy(end) if trees else None,
    )
