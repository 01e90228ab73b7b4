"""A sweep file: which models, which quantization settings, which tasks and corpora."""

from __future__ import annotations

import difflib
import fnmatch
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    ByteSize,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from evaluation.tasks.index import task_names
from evaluation.text.corpora import CORPORA
from orchestrator.errors import InputError
from orchestrator.paths import real
from orchestrator.study.calibrations import Calibration
from orchestrator.study.models import ModelEntry, load_yaml
from orchestrator.study.problem import first_problem
from orchestrator.study.strict import Strict
from quantizers.data_types import base_type
from quantizers.recipes import RECIPES
from quantizers.setting import BESIDE_16_BIT, Setting

# What a grid may list, and what it has otherwise. The method follows from bits and rounding,
# whether blocks cross rows from how their size is spelled; options of GPTQ stand with it.
_FOLLOW = ("method", "by_row", "gptq_order", "gptq_damping", "gptq_hessian", "gptq_dead")
FACTORS: dict[str, Any] = {
    **{field.name: field.default for field in fields(Setting) if field.name not in _FOLLOW},
    "rounding": "nearest",
    "data_type": "float",
    "block_size": 64,
}


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _are_16(given: dict[str, Any]) -> bool:
    return "bits" in given and all(bits == 16 for bits in _as_list(given["bits"]))


class Grid(Strict):
    """Every combination of the listed factors; a single value needs no brackets.

    Factors are those of `Setting.make`. `exponent_bits` is `default` (appendix C.4's heuristic), a
    number, a list, or a mapping from bits to one of these; it applies to the float type alone.
    `models` narrows a grid to some of the sweep's families or models; `recipe` names bundles of
    factors (see quantizers.recipes), over which the grid's own factors go.
    """

    model_config = ConfigDict(extra="allow")
    models: list[str] | None = None
    recipe: list[str] = []

    _lists = field_validator("recipe", mode="before")(_as_list)

    @field_validator("recipe")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in RECIPES:
                raise ValueError(f"{name!r} is none; known: {', '.join(RECIPES)}")
        return names

    @model_validator(mode="after")
    def _check_factors(self) -> Grid:
        given: dict[str, Any] = self.model_extra or {}
        for name, value in given.items():
            if name not in FACTORS:
                raise ValueError(f"{name}: unknown key")
            if value == []:
                raise ValueError(f"{name}: an empty list asks for nothing")
        self._check_effect(given)
        if self.recipe:
            try:
                self.of_recipes()  # each is checked as a grid of its own
            except ValidationError as error:
                raise ValueError(first_problem(error)) from None
            return self
        if "bits" not in given:
            raise ValueError("bits: missing")
        exponents = given.get("exponent_bits")
        for bits, choices in exponents.items() if isinstance(exponents, dict) else ():
            if isinstance(bits, bool) or bits not in self.choices("bits"):
                raise ValueError(f"exponent_bits: {bits!r} is none of this grid's bits")
            if choices == []:
                raise ValueError(f"exponent_bits: {bits}: an empty list asks for nothing")
        floats = any(base_type(str(name)) == "float" for name in self.choices("data_type"))
        if given.get("exponent_bits", "default") != "default" and not floats:
            raise ValueError("exponent_bits: only the float data type has them; leave it out")
        return self

    def _check_effect(self, given: dict[str, Any]) -> None:
        """Raises ValueError for a factor that no setting of the grid has."""
        idle = [name for name in given if name not in BESIDE_16_BIT]
        if idle and _are_16(given):
            raise ValueError(
                f"{idle[0]}: does nothing at 16 bit, where no weight is quantized; leave it out, "
                "or add fewer bits"
            )

    def of_recipes(self) -> list[Grid]:
        """One grid a recipe, without the name; the grid itself where it names none."""
        given: dict[str, Any] = self.model_extra or {}
        bundles: list[dict[str, Any]] = [dict(RECIPES[name].factors) for name in self.recipe]
        if _are_16(given):
            bundles = [{k: v for k, v in b.items() if k in BESIDE_16_BIT} for b in bundles]
        return [Grid.model_validate({**b, **given}) for b in bundles] or [self]

    def choices(self, factor: str) -> list[Any]:
        """The values of one factor."""
        given: dict[str, Any] = self.model_extra or {}
        return _as_list(given.get(factor, FACTORS[factor]))

    def weighting_choices(self, scales: str) -> list[Any]:
        """Of `clip_weighting` at these scales: where both are varied, it is by clipped ones."""
        varied = scales == "absmax" and "clipped" in self.choices("scales")
        return ["plain"] if varied else self.choices("clip_weighting")

    def exponent_choices(self, bits: int) -> list[Any]:
        """Exponent bits to try at this precision; None stands for the default."""
        value = (self.model_extra or {}).get("exponent_bits", "default")
        if isinstance(value, dict):
            value = value.get(bits, "default")
        return [None if item == "default" else item for item in _as_list(value)]


def _absolute(path: str | None) -> str | None:
    """What a worker in another folder can open."""
    return None if path is None else str(real(path))


class TaskEntry(Strict):
    """A zero-shot task, task set or group, its data from the hub or from `data_files`: a file, or
    a folder with a file for each task (air-gapped clusters)."""

    name: str
    data_files: str | None = None

    @property
    def local_copy(self) -> str | None:
        return _absolute(self.data_files)


class Corpus(Strict):
    """A perplexity corpus: a name, with `data_files` a local copy of it, or a path to a text or
    JSONL file. `bos`: whether windows begin with BOS; auto: for models that need it (Gemma)."""

    name: str
    max_tokens: int | None = Field(default=None, ge=2)
    data_files: str | None = None
    bos: bool | Literal["auto"] = "auto"

    @property
    def local_copy(self) -> str | None:
        return _absolute(self.data_files)

    @property
    def source(self) -> str:
        """What a worker in another folder can open: the name, or the file's absolute path."""
        return self.name if self.name in CORPORA else str(_absolute(self.name))


class Compute(Strict):
    """How the work is laid out; nothing here changes what is measured, except `device`."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int | None = Field(default=None, ge=1)
    threads_per_worker: int = Field(default=1, ge=1)
    # Seconds an experiment may take, with its load.
    timeout: float | None = Field(default=6 * 3600, gt=0, allow_inf_nan=False)
    # Models read block by block, through all their settings; auto: those that do not fit.
    streaming: Literal["auto"] | bool = "auto"
    hidden_memory: ByteSize | None = None  # that then waits between blocks; beyond it: on disk
    # Settings of GPTQ rounded in one go; auto: those that can be; true: refused where one cannot.
    stacking: Literal["auto"] | bool = "auto"


class Sweep(Strict):
    """A validated sweep file."""

    name: str
    models: list[str] = Field(min_length=1)
    grids: list[Grid] = Field(min_length=1)
    calibrations: dict[str, Calibration] = {}
    tasks: list[TaskEntry] = []
    limit: int | None = Field(default=None, ge=1)
    corpora: list[Corpus] = []
    context: int | None = Field(default=None, ge=2)
    compute: Compute = Compute()
    strategy: Literal["full", "adaptive"] = "full"

    _lists = field_validator("models", mode="before")(_as_list)

    @field_validator("tasks", "corpora", mode="before")
    @classmethod
    def _entries(cls, value: Any) -> Any:
        return [{"name": e} if isinstance(e, str) else e for e in _as_list(value)]

    @field_validator("corpora")
    @classmethod
    def _each_once(cls, corpora: list[Corpus]) -> list[Corpus]:
        """A corpus asked for twice is scored once, as a task is."""
        return [corpus for i, corpus in enumerate(corpora) if corpus not in corpora[:i]]

    def task_data(self) -> dict[str, str | None]:
        """Every single task, sets and groups expanded, in order, with its local data if any. A
        task asked for twice takes the data of the entry that names some."""
        data: dict[str, str | None] = {}
        for entry in self.tasks:
            for name in task_names(entry.name):
                data[name] = entry.local_copy or data.get(name)
        return data

    def task_names(self) -> list[str]:
        """Zero-shot tasks with sets and groups expanded, in order, without repeats."""
        return list(self.task_data())

    @model_validator(mode="after")
    def _something_to_measure(self) -> Sweep:
        if not self.tasks and not self.corpora:
            raise ValueError("nothing to measure; give tasks, corpora or both")
        if self.strategy == "adaptive" and not self.corpora:
            raise ValueError("strategy: adaptive samples a corpus; give corpora")
        return self


def load_sweep(path: Path) -> Sweep:
    """Read a sweep file; of its data only the names are checked (see study/data_check.py).

    Relative paths are taken from the file's own folder. Raises InputError with file, key, reason.
    """
    content = load_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a mapping with name, models, grids")
    for key in ("tasks", "corpora"):
        if key in content:
            content[key] = [_with_own_paths(e, path.parent, key) for e in _as_list(content[key])]
    if isinstance(named := content.get("calibrations"), dict):
        content["calibrations"] = {
            name: _with_own_corpus(entry, path.parent) for name, entry in named.items()
        }
    try:
        return Sweep.model_validate({"name": path.stem, **content})
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error)}") from None


def _with_own_paths(entry: Any, base: Path, key: str) -> Any:
    """An entry of `tasks` or `corpora` with the file names in it made absolute. A corpus that is
    neither a name we know nor a file stays as it was written, for the error to show."""
    if isinstance(entry, str):
        entry = {"name": entry}
    if not isinstance(entry, dict):
        return entry
    changed = dict(entry)
    if isinstance(files := entry.get("data_files"), str):
        changed["data_files"] = _below(base, files)
    name = entry.get("name")
    if key == "corpora" and isinstance(name, str) and name not in CORPORA:
        file = _below(base, name)
        changed["name"] = file if os.path.exists(file) else name
    return changed


def _with_own_corpus(calibration: Any, base: Path) -> Any:
    if not isinstance(calibration, dict) or "corpus" not in calibration:
        return calibration
    return calibration | {"corpus": _with_own_paths(calibration["corpus"], base, "corpora")}


def _below(base: Path, path: str) -> str:
    return os.path.abspath(os.path.join(base, os.path.expanduser(path)))


def select_models(
    names: Sequence[str], families: dict[str, list[ModelEntry]], where: str
) -> list[ModelEntry]:
    """Models by family or model name, or by a pattern such as `sotu-*`. Raises InputError that
    suggests the nearest known names."""
    by_name = {entry.name: [entry] for entries in families.values() for entry in entries}
    named = {**by_name, **families}
    chosen: dict[str, ModelEntry] = {}
    for name in map(str, names):
        matching = [name] if name in named else fnmatch.filter(named, name)
        if not matching:
            near = difflib.get_close_matches(name, [*families, *by_name], n=3)
            hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(families)}"
            raise InputError(
                f"{where}: no family or model {name!r} in models.yaml (--models: another); {hint}"
            )
        for match in matching:
            chosen.update({entry.name: entry for entry in named[match]})
    return list(chosen.values())
