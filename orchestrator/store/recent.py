"""The newest results of a driver, kept in memory in case the database loses what it stored."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.study.job import JobResult

MOST_BYTES = 32 << 20
_BYTES_OF_ONE = 4096  # beside its per-item scores


class Recent:
    """Results in the order they were stored, the oldest let go beyond MOST_BYTES."""

    def __init__(self) -> None:
        self._kept: deque[tuple[JobResult, int]] = deque()
        self._bytes = 0

    def add(self, results: Iterable[JobResult]) -> None:
        for result in results:
            scores = [s for _, m in result.measurements for s in m.items.values()]
            size = _BYTES_OF_ONE + sum(s.nbytes for s in scores)
            self._kept.append((result, size))
            self._bytes += size
        while self._bytes > MOST_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popleft()[1]

    def results(self) -> list[JobResult]:
        return [result for result, _ in self._kept]
