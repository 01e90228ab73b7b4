"""A claim tested: statistic, verdict, evidence and tables, made once for whoever renders it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

HOLDS, FAILS, OPEN, PARTLY = "holds", "does not hold", "open", "holds in part"
UNKNOWN = "errors unknown"


@dataclass(frozen=True)
class Table:
    """Cells as plain text; the first `text` columns are words, the others numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: int


Block = str | Table


@dataclass(frozen=True)
class Claim:
    """One claim of the paper on these results: what it says, what was found, the numbers.

    `source`: where the paper says it; `verdict`: one of the words above; `evidence`: one line with
    the numbers the verdict rests on; `body`: paragraphs and tables; `figures`: names of figures.
    """

    title: str
    source: str
    claim: str
    verdict: str
    evidence: str
    body: Sequence[Block]
    figures: Sequence[str] = field(default=())


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], text: int = 1) -> Table:
    """A table of a claim; its rows are read at once."""
    return Table(columns, [list(row) for row in rows], text)


def between(low: float, high: float, spec: str = "+.4f") -> str:
    """An interval: "+0.0102 to +0.0134"; "" where it is not known."""
    return f"{low:{spec}} to {high:{spec}}" if low == low and high == high else ""


def sign(low: float, high: float) -> int:
    """1 or -1 where an interval lies on one side of zero, else 0."""
    return 1 if low > 0 else -1 if high < 0 else 0


def judged(verdict: str, ends: Iterable[float]) -> str:
    """The verdict, or UNKNOWN where an end of an interval that it rests on is not known."""
    return verdict if all(end == end for end in ends) else UNKNOWN


VOTES = (
    "Over several comparisons a claim holds if it holds in all, in part if in half or more, does "
    "not hold if more than half say so, and is open otherwise."
)


def votes(verdicts: Sequence[str]) -> str:
    """One verdict from several comparisons, by the rule that VOTES states."""
    if all(v == HOLDS for v in verdicts):
        return HOLDS
    if all(v == UNKNOWN for v in verdicts):
        return UNKNOWN
    if 2 * list(verdicts).count(HOLDS) >= len(verdicts):
        return PARTLY
    return FAILS if 2 * list(verdicts).count(FAILS) > len(verdicts) else OPEN
