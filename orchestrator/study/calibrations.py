"""Named calibrations of a sweep file: the text whose statistics one-shot methods read."""

from __future__ import annotations

import json
from functools import cached_property
from hashlib import sha256
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from evaluation.sotu.corpus import HOLD_OUT_EVERY
from evaluation.text.corpora import corpus_name, corpus_version
from orchestrator.study.strict import Strict

if TYPE_CHECKING:
    from evaluation.calibration_text import CalibrationText

RANDOM = "random"
MOST_BY_DEFAULT = 2048  # tokens a window


class Source(Strict):
    """A corpus by name, with `data_files` a local copy of it, or a path to a text or JSONL file;
    `sotu`: its training addresses; `random`: tokens uniform over the vocabulary."""

    name: str
    data_files: str | None = None


class Calibration(Strict):
    """Which windows of which text. Without `length` they are as long as the model's own context,
    at most 2,048 tokens."""

    corpus: Source
    windows: int = Field(default=128, ge=1)
    length: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**63)

    @field_validator("corpus", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def text_version(self) -> str:
        """Equal versions, equal text. Raises ValueError for a corpus that is not there."""
        if self.corpus.name == RANDOM:
            return RANDOM
        if self.corpus.name == "sotu" and self.corpus.data_files is None:
            return f"sotu {version('sotu')}, but every {HOLD_OUT_EVERY}th address"
        return corpus_version(self.corpus.name, self.corpus.data_files)

    @cached_property
    def label(self) -> str:
        """What stands for it in settings and their ids: with a digest of all that decides the
        tokens beside the tokenizer, which the model's revision tells. Raises ValueError as above.
        """
        name = RANDOM if self.corpus.name == RANDOM else corpus_name(self.corpus.name)
        parts = [self.text_version, self.windows, self.length, self.seed]
        digest = sha256(json.dumps(parts).encode()).hexdigest()[:12]
        seed = f" seed {self.seed}" if self.seed else ""
        return f"{name} {self.windows}x{self.length or 'context'}{seed} #{digest}"

    def check_length(self, context: int) -> None:
        """Raises ValueError for windows longer than the `context` tokens that a model reads."""
        if self.length is not None and self.length > context:
            raise ValueError(
                f"calibration windows of {self.length} tokens exceed the {context} that the model "
                "reads; give a smaller length, or none"
            )

    def text(self, context: int) -> CalibrationText:
        """The windows for a model that reads `context` tokens. Raises ValueError for longer."""
        from evaluation.calibration_text import CalibrationText

        self.check_length(context)
        length = self.length or min(context, MOST_BY_DEFAULT)
        name, data_files = self.corpus.name, self.corpus.data_files
        return CalibrationText(name, self.windows, length, self.seed, data_files)
