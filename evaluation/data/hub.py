"""Data sets of the hub: where one cannot be had, a line that says why, and no long waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from evaluation.data.errors import DataError
from quantizers.checkpoint import UnusableModel
from quantizers.hub import ask_hub

Data = TypeVar("Data")

ASK_AGAIN_AFTER = 600.0  # seconds; one try takes half a minute where the hub does not answer
_NETWORK = ("huggingface_hub", "httpx", "httpx2", "httpcore", "requests", "urllib3", "aiohttp")
_failed: dict[str, tuple[float, str]] = {}


def from_hub(what: str, load: Callable[[], Data], advice: str) -> Data:
    """What `load` returns. `what` is the data set in words; `advice` says what to do without it.

    Raises DataError with the reason; where it is the hub or the way there, again without a try for
    ASK_AGAIN_AFTER seconds.
    """
    when, message = _failed.get(what, (float("-inf"), ""))
    if time.monotonic() - when < ASK_AGAIN_AFTER:
        raise DataError(message)
    try:
        return load()
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        if not _of_the_network(error):
            message = f"{what} cannot be read: {type(error).__name__}: {reason}"
            raise DataError(message) from error
        message = f"{what} cannot be fetched from the hub: {reason.rstrip('.')}. {advice}"
        _failed[what] = (time.monotonic(), message)
        raise DataError(message) from error


def check_dataset(what: str, dataset: str, advice: str) -> None:
    """Raises DataError, within ten seconds, where neither the hub nor the local cache has a data
    set (owner/name). Nothing is fetched."""
    try:
        if ask_hub(lambda api: api.dataset_info(dataset), dataset) is not None:
            return
        reason = "the hub cannot be reached, and the local cache lacks it"
    except UnusableModel as error:
        reason = str(error).removeprefix(f"{dataset}: ")
    if not _is_cached(dataset):
        raise DataError(f"{what} cannot be fetched from the hub: {reason}. {advice}")


def _is_cached(dataset: str) -> bool:
    from datasets import config
    from huggingface_hub import constants

    def plain(name: str) -> str:
        return name.lower().replace("_", "").replace("-", "").replace("/", "")

    folders = [Path(config.HF_DATASETS_CACHE), Path(constants.HF_HUB_CACHE)]
    kept = [entry.name for folder in folders if folder.is_dir() for entry in folder.iterdir()]
    return plain(dataset) in {plain(name.removeprefix("datasets--")) for name in kept}


def _of_the_network(error: BaseException | None) -> bool:
    """Whether an exception, or one behind it, is of the hub or of the way there."""
    while error is not None:
        if isinstance(error, ConnectionError | TimeoutError):
            return True
        if type(error).__module__.partition(".")[0] in _NETWORK:
            return True
        if type(error).__name__ == "DatasetNotFoundError":  # of datasets: not imported for this
            return True
        error = error.__cause__ or error.__context__
    return False
