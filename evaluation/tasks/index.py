"""Where each zero-shot task is defined: our own, and the harness's by a kept index of its names."""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from evaluation.data.cache_folder import cache_directory
from evaluation.sotu.tasks import SOTU_TASKS, config_of, task_directory
from evaluation.tasks import paralex
from evaluation.tasks.sets import RUN_SETS

HARNESS = f"lm-eval {version('lm_eval')}"
SCORED_TYPES = ("loglikelihood", "multiple_choice", "loglikelihood_rolling")


def task_names(name: str) -> list[str]:
    """The single tasks that a name stands for: itself, a set of ours, a group of the harness.

    Raises ValueError for a name that is none of these, with the nearest that are, and for a group
    that gives its tasks other settings than their own.
    """
    if name in RUN_SETS:
        return [task for member in RUN_SETS[name] for task in task_names(member)]
    if name in SOTU_TASKS or name == paralex.NAME:
        return [name]
    if not _index_file().exists() and name not in (words := _words()):
        raise _unknown(name, words)  # a typo need not wait for the index
    if name in _harness()["tasks"]:
        return [name]
    groups = _harness()["groups"]
    if name not in groups:
        raise _unknown(name, _known())
    members = groups[name]
    if members is None:
        raise ValueError(
            f"task group {name!r} gives its tasks settings of its own; name the tasks themselves"
        )
    return list(dict.fromkeys(task for member in members for task in task_names(member)))


def task_file(name: str) -> Path:
    """The YAML file that defines a task.

    Raises ValueError for a name that is no single task, with the nearest names that are.
    """
    if name in SOTU_TASKS:
        return task_directory() / f"{name}.yaml"
    known = _harness()["tasks"]
    if name in known:
        return harness_folder() / known[name]
    raise _unknown(name, _known())


@cache
def task_config(name: str) -> dict[str, Any]:
    """The task's configuration as written, functions unresolved; its data is not touched.

    Raises ValueError for an unknown task and for one that is not scored by log-likelihood.
    """
    if name == paralex.NAME:
        return paralex.CONFIG
    if name in SOTU_TASKS:
        return config_of(name)
    config: dict[str, Any] = _yaml_loader().load_yaml(task_file(name), resolve_func=False)
    kind = config.get("output_type", "generate_until" if "class" not in config else None)
    if kind not in SCORED_TYPES:
        reason = "generates text" if kind == "generate_until" else "is defined by its own code"
        raise ValueError(
            f"zero-shot task {name!r} {reason}; only tasks scored by log-likelihood can be run"
        )
    return config


def _known() -> Iterable[str]:
    return [*_harness()["tasks"], *_harness()["groups"]]


def _unknown(name: str, known: Iterable[str]) -> ValueError:
    names = [*RUN_SETS, *SOTU_TASKS, paralex.NAME, *known]
    alike = [other for other in names if other[:1] == name[:1]]  # a tenth of the time
    near = difflib.get_close_matches(name, alike, n=4) or difflib.get_close_matches(name, names)
    hint = f"did you mean {', '.join(near)}?" if near else f"for example {', '.join(SOTU_TASKS)}"
    return ValueError(f"unknown zero-shot task {name!r}: {hint}")


@cache
def harness_folder() -> Path:
    """The harness's task folder, found without importing the harness, which takes a second."""
    spec = find_spec("lm_eval")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "tasks"


@cache
def _yaml_loader() -> Any:
    """The harness's reader of task files: its module alone, without the packages around it."""
    spec = spec_from_file_location("_lm_eval_yaml_loader", harness_folder() / "_yaml_loader.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _harness() -> dict[str, dict[str, Any]]:
    """`tasks`: name -> file below the harness's task folder; `groups`: name -> names of its
    members, None where it changes their settings. Indexing 14,000 names takes the harness ten
    seconds, so the result is kept, one file a version."""
    kept = _index_file()
    try:
        index: dict[str, dict[str, Any]] = json.loads(kept.read_text())
        if index.keys() == {"tasks", "groups"}:
            return index
    except (OSError, ValueError, AttributeError):
        pass  # none yet, or damaged
    print(f"indexing the tasks of {HARNESS}, once: ten seconds", file=sys.stderr, flush=True)
    index = _index_harness()
    partial = kept.with_suffix(f".{os.getpid()}.partial")
    with suppress(OSError):  # built again the next time
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(index))
        os.replace(partial, kept)
    return index


def _index_file() -> Path:
    return cache_directory() / f"{HARNESS.replace(' ', '-')}-index.json"


@cache
def _words() -> set[str]:
    """All that can be a name in the harness's task files, read as plain text in a third of a
    second: what spaces part is told apart first, and searched once."""
    parts: set[bytes] = set()
    for folder, _, files in os.walk(harness_folder()):
        for file in files:
            if file.endswith(".yaml") or "." not in file:  # those that others include
                with open(os.path.join(folder, file), "rb", buffering=0) as text:
                    parts.update(text.readall().split())
    words = re.findall(rb"[^\s\[\],'\"#]+", b"\n".join(parts))
    return {word.decode(errors="ignore") for word in words}


def _index_harness() -> dict[str, dict[str, Any]]:
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._factory import GROUP_FIELD_NAMES

    manager, folder = TaskManager(), harness_folder()
    tasks = {}
    for name in manager.all_subtasks:
        path = manager.task_index[name].yaml_path
        if path is not None:
            tasks[name] = str(path.relative_to(folder))
    groups: dict[str, list[str] | None] = {
        name: sorted(manager.task_index[name].tags) for name in manager.all_tags
    }
    for name in manager.all_groups:
        config = manager.task_index[name].cfg or {}
        members = config.get("task") or []
        plain = isinstance(members, list) and all(isinstance(m, str) for m in members)
        groups[name] = members if plain and set(config) <= {*GROUP_FIELD_NAMES, "tag"} else None
    return {"tasks": tasks, "groups": groups}
