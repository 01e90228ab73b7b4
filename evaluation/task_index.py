"""Where each zero-shot task is defined: our own, and the harness's by a kept index of its names."""

from __future__ import annotations

import difflib
import json
import os
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.tasks._yaml_loader import load_yaml

from evaluation.sotu_tasks import SOTU_TASKS, cache_directory, task_directory

HARNESS = f"lm-eval {version('lm_eval')}"
SCORED_TYPES = ("loglikelihood", "multiple_choice", "loglikelihood_rolling")


def task_file(name: str) -> Path:
    """The YAML file that defines a task.

    Raises ValueError for a name that is no single task, with the nearest names that are.
    """
    if name in SOTU_TASKS:
        return task_directory() / f"{name}.yaml"
    known = _harness_tasks()
    if name in known:
        return _harness_folder() / known[name]
    near = difflib.get_close_matches(name, [*SOTU_TASKS, *known], n=4, cutoff=0.6)
    hint = f"did you mean {', '.join(near)}?" if near else f"for example {', '.join(SOTU_TASKS)}"
    raise ValueError(f"unknown zero-shot task {name!r}: {hint}")


@cache
def task_config(name: str) -> dict[str, Any]:
    """The task's configuration as written, functions unresolved; its data is not touched.

    Raises ValueError for an unknown task and for one that is not scored by log-likelihood.
    """
    config: dict[str, Any] = load_yaml(task_file(name), resolve_func=False)
    kind = config.get("output_type")
    if kind not in SCORED_TYPES:
        reason = "generates text" if kind == "generate_until" else "is defined by its own code"
        raise ValueError(
            f"zero-shot task {name!r} {reason}; only tasks scored by log-likelihood can be run"
        )
    return config


def _harness_folder() -> Path:
    return Path(lm_eval.tasks.__path__[0])


@cache
def _harness_tasks() -> dict[str, str]:
    """Name -> file below the harness's task folder. Indexing 14,000 names takes the harness ten
    seconds, so the result is kept, one file a version."""
    kept = cache_directory() / f"{HARNESS.replace(' ', '-')}-tasks.json"
    if kept.exists():
        names: dict[str, str] = json.loads(kept.read_text())
        return names
    from lm_eval.tasks import TaskManager

    manager, folder = TaskManager(), _harness_folder()
    names = {}
    for name in manager.all_subtasks:
        path = manager.task_index[name].yaml_path
        if path is not None:
            names[name] = str(path.relative_to(folder))
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(names))
    os.replace(partial, kept)
    return names
