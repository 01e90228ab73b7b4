from __future__ import annotations

import numpy as np
import pytest

from evaluation.engine.layout import WIDEST_TREE, Layout, plan
from evaluation.engine.sequences import Sequences
from tests.evaluation.engine.test_scoring import branching_sequences, random_sequences
from tests.evaluation.tiny_models import CONTEXT

APART, TREES = Layout(CONTEXT, 256), Layout(CONTEXT, 256, pair_cost=0.001)


def paths(sequences: Sequences, layout: Layout) -> dict[int, list[tuple[list[int], int]]]:
    """What each sequence is made of, read back from the batches: for every scored position, the
    tokens that it sees in order of depth, and the target."""
    found: dict[int, list[tuple[list[int], int]]] = {}
    made = plan(sequences, layout)
    scored = [
        (batch, position, target)
        for batch in made.batches
        for position, target in zip(batch.positions.tolist(), batch.targets.tolist(), strict=True)
    ]
    owners = np.repeat(made.order, made.lengths)
    for owner, (batch, position, target) in zip(owners.tolist(), scored, strict=True):
        row, place = divmod(position, batch.input_ids.shape[1])
        before = range(place + 1)
        if batch.end is not None and batch.depth is not None:
            before = [j for j in before if place < batch.end[row, j]]
            assert batch.depth[row, before].tolist() == list(range(len(before)))
        tokens = batch.input_ids[row, before].tolist()
        found.setdefault(owner, []).append((tokens, target))
    return found


@pytest.mark.parametrize("layout", [APART, TREES, Layout(20, 100, 0.001), Layout(20, 30)])
def test_every_scored_token_sees_its_own_sequence_and_nothing_else(layout):
    pairs = branching_sequences(24) + random_sequences(12)
    pairs += [pairs[0], (pairs[1][0][:-1], 1)]  # one twice; one that is the beginning of another
    pairs = [(tokens, min(n, 20)) for tokens, n in pairs]
    read = paths(Sequences.of(pairs), layout)
    for i, (tokens, n) in enumerate(pairs):
        tokens = tokens[-(layout.max_length + 1) :]
        cuts = range(len(tokens) - n, len(tokens))
        assert read[i] == [(tokens[:cut], tokens[cut]) for cut in cuts]


@pytest.mark.parametrize("layout", [APART, TREES])
def test_batches_hold_the_budget_and_are_nearly_level(layout):
    sequences = Sequences.of(random_sequences(200))
    batches = plan(sequences, layout).batches
    assert all(b.input_ids.numel() <= 256 for b in batches)
    used = int((sequences.lengths - 1).sum())
    assert sum(b.input_ids.numel() for b in batches) < 1.15 * used
    assert sum(len(b.targets) for b in batches) == sequences.scored.sum()


def positions(sequences: Sequences, layout: Layout) -> int:
    return sum(batch.input_ids.numel() for batch in plan(sequences, layout).batches)


def test_trees_are_made_only_where_they_save_work():
    sequences = Sequences.of(branching_sequences(40))
    assert positions(sequences, TREES) < 0.6 * positions(sequences, APART)
    # A quarter shared: a longer row is worth it while the attention costs next to nothing.
    pairs = [([1] * 10 + [2 + way] * 31, 5) for way in range(3)]
    assert positions(Sequences.of(pairs), Layout(CONTEXT, 256, 0.001)) == 10 + 3 * 30
    assert positions(Sequences.of(pairs), Layout(CONTEXT, 256, 1.0)) == 3 * 40


def test_trees_stay_narrow_and_long_sequences_stand_alone():
    many = [([1] * 30 + [2 + i], 1) for i in range(60)] + [([3] * 400, 5)]
    sequences = Sequences.of([(tokens + [9], 1) for tokens, _ in many])
    made = plan(sequences, Layout(1000, 100, 0.0))
    widths = sorted({b.input_ids.shape[1] for b in made.batches})
    assert widths[-1] == 400 and widths[-2] <= 100 < WIDEST_TREE
    assert made.longest == 400


@pytest.mark.parametrize("n", [0, 3])
def test_sequences_refuse_to_score_none_or_all_tokens(n):
    with pytest.raises(ValueError, match="sequence 1: cannot score"):
        Sequences.of([([1, 2, 3], 1), ([1, 2, 3], n)])


def test_nothing_to_lay_out():
    assert plan(Sequences.of([]), TREES).batches == ()
