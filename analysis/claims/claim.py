"""Claims tested, and exhibits: made once, as values, for whoever renders them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

HOLDS, FAILS, OPEN, PARTLY = "holds", "does not hold", "open", "holds in part"
UNRESOLVED = "not resolved"
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


@dataclass(frozen=True)
class Exhibit:
    """A table, a figure or a passage of the paper on these results: no claim, so no verdict."""

    title: str
    source: str
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


def resolved(low: float, high: float, margin: float = 0.0) -> str:
    """What the interval of an advantage says of the claim that it is above -`margin`.

    HOLDS or FAILS where the whole interval lies on one side, UNRESOLVED where it does not, UNKNOWN
    where an end is not known.
    """
    if not (low == low and high == high):
        return UNKNOWN
    return HOLDS if low > -margin else FAILS if high < -margin else UNRESOLVED


def alike(low: float, high: float, margin: float) -> str:
    """What the interval of a difference says of the claim that it is no larger than `margin`."""
    if not (low == low and high == high and margin == margin):
        return UNKNOWN
    if -margin < low and high < margin:
        return HOLDS
    return FAILS if high < -margin or low > margin else UNRESOLVED


JOINTLY = (
    "Over several comparisons a claim holds if it holds in each, does not hold if it does not in "
    "one, and is not resolved otherwise."
)


def jointly(verdicts: Sequence[str]) -> str:
    """One verdict on a claim about every one of several cases, by the rule that JOINTLY states."""
    for verdict in (FAILS, UNKNOWN, UNRESOLVED):
        if verdict in verdicts:
            return verdict
    return HOLDS if verdicts else UNRESOLVED


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
