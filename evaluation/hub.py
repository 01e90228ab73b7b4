"""Data sets of the hub: where it cannot be reached, one clear line, and no long wait for each of
thousands of experiments."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from evaluation.errors import DataError

Data = TypeVar("Data")

ASK_AGAIN_AFTER = 600.0  # seconds; one try takes half a minute where the hub does not answer
_failed: dict[str, tuple[float, str]] = {}


def from_hub(what: str, load: Callable[[], Data], advice: str) -> Data:
    """What `load` returns. `what` is the data set in words; `advice` says what to do without it.

    Raises ValueError with both and the reason; again, without a try, for ASK_AGAIN_AFTER seconds.
    """
    when, message = _failed.get(what, (float("-inf"), ""))
    if time.monotonic() - when < ASK_AGAIN_AFTER:
        raise DataError(message)
    try:
        return load()
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        message = f"{what} cannot be fetched from the hub: {reason.rstrip('.')}. {advice}"
        _failed[what] = (time.monotonic(), message)
        raise DataError(message) from error
