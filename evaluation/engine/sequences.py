"""Token sequences to score, as flat arrays: what is kept of requests once they are tokenized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class Sequences:
    """n sequences end to end: sequence i is tokens[starts[i] : starts[i+1]], of which the last
    scored[i] tokens are to be scored given all before them.

    tokens: any integer dtype [total]; starts int64 [n+1]; scored int64 [n]. Compared by identity,
    since layouts of the same sequences are kept.
    """

    tokens: np.ndarray
    starts: np.ndarray
    scored: np.ndarray

    @classmethod
    def of(cls, pairs: Sequence[tuple[Sequence[int], int]]) -> Sequences:
        """From (tokens, how many at the end to score). Raises ValueError unless at least one token
        stands before those to score, and at least one is to be scored."""
        lengths = np.array([len(tokens) for tokens, _ in pairs], dtype=np.int64)
        scored = np.array([n for _, n in pairs], dtype=np.int64)
        for i in np.flatnonzero((scored < 1) | (scored >= lengths))[:1]:
            raise ValueError(f"sequence {i}: cannot score {scored[i]} of {lengths[i]} tokens")
        parts = [np.asarray(tokens, dtype=np.int32) for tokens, _ in pairs]
        tokens = np.concatenate(parts) if parts else np.empty(0, np.int32)
        return cls(tokens, np.concatenate([[0], np.cumsum(lengths)]), scored)

    def __len__(self) -> int:
        return len(self.scored)

    @cached_property
    def largest(self) -> int:
        """The largest token id; -1 of no tokens."""
        return int(self.tokens.max()) if len(self.tokens) else -1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, int64 [n]."""
        return np.diff(self.starts)
