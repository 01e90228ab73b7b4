"""What of a sweep's calibrations can be found wrong before any work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.text.corpora import CORPORA, check_corpus, corpus_version
from orchestrator.errors import InputError
from orchestrator.study.calibrations import RANDOM, Calibration, Source
from orchestrator.study.experiment import Experiment
from orchestrator.study.model_config import context_of
from orchestrator.study.models import ModelEntry
from quantizers.setting import Setting

if TYPE_CHECKING:
    from evaluation.calibration_text import CalibrationText


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


def check_windows(
    settings: Mapping[ModelEntry, Iterable[Setting]],
    calibrations: Mapping[str, Calibration],
    where: Path,
) -> None:
    """Raises InputError for windows that no model which is calibrated on them can read: by config
    alone, before text and tokenizers are read. Where some can, `window_refusals` names the others.
    """
    for name, calibration in calibrations.items():
        problems = {}
        for entry, given in settings.items():
            if any(setting.calibration == calibration.label for setting in given):
                problems[entry] = _too_long(calibration, context_of(entry))
        if problems and all(problems.values()):
            raise InputError(f"{where}: calibrations.{name}: {next(iter(problems.values()))}")


def _too_long(calibration: Calibration, context: int | None) -> str | None:
    """What is wrong with its windows for a model that reads `context` tokens, where known."""
    try:
        if context is not None:
            calibration.check_length(context)
    except ValueError as error:
        return str(error)
    return None


def window_refusals(experiments: Iterable[Experiment]) -> Iterator[tuple[Experiment, str]]:
    """Each experiment whose text is too short or whose windows are too long for its model, and what
    is wrong, as far as config, tokenizer and text are local files: what else there is, workers
    find."""
    found: dict[tuple[CalibrationText, str], str | None] = {}
    for experiment in experiments:
        entry, calibration = experiment.model, experiment.calibration
        context = context_of(entry)
        if calibration is None or context is None:
            continue
        try:
            text = calibration.text(context)
        except ValueError as error:
            yield experiment, str(error)
            continue
        tokenizer = entry.tokenizer or entry.path
        if tokenizer is None or not Path(tokenizer).is_dir():
            continue
        if (text, tokenizer) not in found:
            found[text, tokenizer] = _problem(calibration.corpus, text, tokenizer)
        if reason := found[text, tokenizer]:
            yield experiment, reason


def _problem(corpus: Source, text: CalibrationText, tokenizer: str) -> str | None:
    try:
        _cut(corpus, text, tokenizer)
    except ValueError as error:
        return str(error)
    return None


def _cut(corpus: Source, text: CalibrationText, tokenizer: str) -> None:
    on_hub = corpus.data_files is None and corpus.name in CORPORA and corpus.name != "sotu"
    if corpus.name == RANDOM or on_hub:
        return
    from transformers import AutoTokenizer

    from evaluation.calibration_text import calibration_windows

    calibration_windows(text, AutoTokenizer.from_pretrained(tokenizer), 0)
