"""models.yaml: model families, where each size's weights are and how they are loaded."""

from __future__ import annotations

import os
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from orchestrator.errors import InputError
from orchestrator.paths import SHIPPED, real
from orchestrator.study.problem import first_problem
from orchestrator.study.strict import Strict
from quantizers.checkpoint import Checkpoint
from quantizers.plain import plain


class ModelEntry(Strict):
    """One model: a hub id or a local directory in the hub's format."""

    family: str
    name: str
    hub: str | None = None
    path: str | None = None
    revision: str | None = None
    n_params: int | None = Field(default=None, gt=0)
    dtype: Literal["float16", "bfloat16"] = "float16"
    weights: Literal["safetensors", "bin"] = "safetensors"
    gpus: int = Field(default=1, ge=1)
    per_gpu: int = Field(default=1, ge=1)
    context: int | None = Field(default=None, ge=2)
    tokenizer: str | None = None
    trust_remote_code: bool = False
    # What trained it, as columns of its experiments (see docs/training.md).
    run: str | None = None
    variant: str | None = None
    seed: int | None = None
    step: int | None = None

    @model_validator(mode="after")
    def _one_source(self) -> ModelEntry:
        if (self.hub is None) == (self.path is None):
            raise ValueError("give exactly one of hub and path")
        if self.path is not None and self.revision is not None:
            raise ValueError("revision: goes with hub; a path is told apart by its content")
        if self.gpus > 1 and self.per_gpu > 1:
            raise ValueError("give gpus (GPUs a model) or per_gpu (models a GPU), not both")
        return self

    @property
    def source(self) -> str:
        """What `from_pretrained` is given."""
        return self.path or self.hub or ""

    @property
    def checkpoint(self) -> Checkpoint:
        """What is loaded, as plain values."""
        return Checkpoint(
            name=self.name,
            source=self.source,
            revision=self.revision,
            tokenizer=self.tokenizer,
            dtype=self.dtype,
            weights=self.weights,
            gpus=self.gpus,
            trust_remote_code=self.trust_remote_code,
        )

    @property
    def identity(self) -> str:
        """The model's part of an experiment's id: a name that does not depend on the machine."""
        return self.hub or self.name


class _Loader(yaml.SafeLoader):
    """YAML takes the last of two equal keys in silence; here that is a mistake. So is a number that
    no database holds."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if isinstance(key, Hashable):
                if key in lines:
                    raise InputError(f"{key!r} is there twice: lines {lines[key]} and {line}")
                lines[key] = line
        return super().construct_mapping(node, deep)

    def construct_bounded_int(self, node: yaml.ScalarNode) -> int:
        value = self.construct_yaml_int(node)
        if abs(value) >= 1 << 63:
            line = node.start_mark.line + 1
            raise InputError(f"line {line}: {value} is too large a number: at most {(1 << 63) - 1}")
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_bounded_int)


def load_yaml(path: Path) -> Any:
    """Parse a YAML file. Raises InputError (one line) when it is missing, not YAML, or has a key
    twice in one mapping or a whole number of more than 64 bits."""
    try:
        return yaml.load(path.read_text(), _Loader)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a directory, not a YAML file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    # A date that is none is a ValueError; nesting without end recurs.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid YAML: {plain(error)}") from None


def load_models(path: Path | None = None) -> dict[str, list[ModelEntry]]:
    """Read models.yaml: family name -> its models, smallest first as listed.

    Relative `path` and `tokenizer` values are taken from the file's own folder. Raises InputError.
    """
    path = path or SHIPPED / "models.yaml"
    content = load_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get("families"), dict):
        raise InputError(f"{path}: expected a mapping `families:` of family names")
    if unknown := set(content) - {"families"}:
        raise InputError(f"{path}: {sorted(map(str, unknown))[0]}: unknown key")
    families: dict[str, list[ModelEntry]] = {}
    seen: dict[str, str] = {}
    for family, body in content["families"].items():
        if not isinstance(body, dict) or not isinstance(body.get("models"), list):
            raise InputError(f"{path}: families.{family}: expected a list `models:`")
        if not body["models"]:
            raise InputError(f"{path}: families.{family}.models: an empty list; give its models")
        shared = {key: value for key, value in body.items() if key != "models"}
        entries = []
        for index, model in enumerate(body["models"]):
            where = f"{path}: families.{family}.models.{index}"
            if not isinstance(model, dict):
                raise InputError(f"{where}: expected a mapping with a name")
            values = {**shared, **model, "family": family}
            for key in ("path", "tokenizer"):
                if isinstance(values.get(key), str):
                    values[key] = _absolute(values[key], path.parent, key)
            try:
                entry = ModelEntry.model_validate(values)
            except ValidationError as error:
                raise InputError(f"{where}.{first_problem(error)}") from None
            if entry.name in seen:
                raise InputError(f"{where}.name: {entry.name} is already in {seen[entry.name]}")
            seen[entry.name] = family
            entries.append(entry)
        families[family] = entries
    return families


def _absolute(value: str, base: Path, key: str) -> str:
    """Local paths made absolute; a tokenizer that is no local path stays a hub id."""
    candidate = real(base / os.path.expanduser(value))
    return str(candidate) if key == "path" or candidate.exists() else value
