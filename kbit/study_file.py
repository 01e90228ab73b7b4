"""A training study's file, read and expanded, as the commands that train and score it need it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import InputError
from orchestrator.paths import real, writable
from orchestrator.study.models import load_yaml
from orchestrator.study.problem import first_problem

if TYPE_CHECKING:
    from training.run_study import Place
    from training.study import Run, StudyFile


@dataclass(frozen=True)
class OpenedStudy:
    """A study file's runs, by seed, and its places as absolute paths."""

    runs: list[Run]
    place: Place
    results: Path  # the folder of runs.csv and of what was scored
    ladder: list[Path]  # sweep files
    plants: list[str]
    others: list[Path]

    @property
    def has_tokenizer(self) -> bool:
        return (self.place.tokenizer / "tokenizer.json").exists()


def open_study(path: Path, text: str | None = None) -> OpenedStudy:
    """Read a study file. `text`: a folder that takes the place of its own. Raises InputError,
    naming the place, for what is not one."""
    from training.run_study import Place
    from training.study import expand

    study = _load(path)

    def resolved(value: str) -> Path:
        return writable(real(real(path).parent / os.path.expanduser(value)))

    try:
        runs = expand(study)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    if text is not None:
        text = str(real(text))
    else:
        text = study.text if study.text == "sotu" else str(resolved(study.text))
    place = Place(text, resolved(study.tokenizer), resolved(study.output))
    results = resolved(study.results or study.output)
    ladder, others = ([resolved(path) for path in paths] for paths in (study.ladder, study.others))
    return OpenedStudy(runs, place, results, ladder, study.plants, others)


def _load(path: Path) -> StudyFile:
    from pydantic import ValidationError

    from training.study import StudyFile

    content = load_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a mapping with recipe, variants and seeds")
    try:
        return StudyFile.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error)}") from None
