"""How far a streamed model is, kept on the disk, so that the same sweep goes on from there."""

from __future__ import annotations

import os
import pickle
import shutil
import time
from contextlib import suppress
from pathlib import Path

from evaluation.engine.hidden_states import HiddenStates
from orchestrator.run.course import Course

# A block is kept when writing took less than this part of the time since the last was.
MOST_OF_THE_TIME = 0.1
_FILE = "progress.pickle"


class StreamProgress:
    """Of the jobs that a folder is named after: the courses, and what waits for the next block."""

    def __init__(self, folder: Path, states: HiddenStates, tokens_per_batch: int) -> None:
        """tokens_per_batch: a walk in batches of another size is not gone on with."""
        self._folder, self._states, self._size = folder, states, tokens_per_batch
        self.first = 0  # block that the courses come to next
        self._kept_at, self._seconds = time.monotonic(), 0.0

    def restore(self) -> list[Course] | None:
        """The courses of an earlier walk, None where there is none; what waited waits again."""
        kept = sorted(self._folder.glob(f"block-*/{_FILE}"), key=lambda file: file.stat().st_mtime)
        for file in reversed(kept):
            with suppress(Exception):  # damaged, or of another version
                size, first, courses, names = pickle.loads(file.read_bytes())
                if size == self._size:
                    self._states.adopt(file.parent, names)
                    self.first, found = first, list(courses)
                    return found
        return None

    def keep(self, number: int, courses: list[Course]) -> None:
        """All blocks before `number` are behind the courses. Where the disk is full nothing is
        kept: the walk goes on."""
        now = time.monotonic()
        if self._seconds > MOST_OF_THE_TIME * (now - self._kept_at):
            return
        partial, folder = self._folder / "partial", self._folder / f"block-{number}"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            names = self._states.write_to(partial)
            content = (self._size, number, courses, names)
            (partial / _FILE).write_bytes(pickle.dumps(content))
            os.replace(partial, folder)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            return
        for other in self._folder.glob("block-*"):
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        self._kept_at, self._seconds = time.monotonic(), time.monotonic() - now
