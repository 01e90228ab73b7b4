"""lm-eval's version is provenance: what a task asks and how it is judged is identity."""

from __future__ import annotations

import shutil

import pytest

from evaluation.protocols import task_protocol
from evaluation.tasks import definitions as task_definitions
from evaluation.tasks import index as task_index
from evaluation.tasks.definitions import FIRST, KNOWN, definition_digest, harness_in_ids
from evaluation.tasks.index import HARNESS, harness_folder, task_config
from evaluation.tasks.sets import OWN_TASKS, TASK_SETS


@pytest.fixture
def another_version(monkeypatch):
    """As if a later harness were installed."""
    monkeypatch.setattr(task_definitions, "HARNESS", "lm-eval 0.9.9")
    harness_in_ids.cache_clear()
    yield
    harness_in_ids.cache_clear()


@pytest.fixture
def edited(tmp_path, monkeypatch):
    """Hellaswag's folder, to be edited, in the place of the harness's."""
    folder = tmp_path / "tasks"
    shutil.copytree(harness_folder() / "hellaswag", folder / "hellaswag")
    monkeypatch.setattr(task_definitions, "harness_folder", lambda: folder)
    monkeypatch.setattr(task_index, "task_file", lambda name: folder / name / f"{name}.yaml")
    task_config.cache_clear()
    yield folder / "hellaswag"
    task_config.cache_clear()


def test_every_task_of_a_set_is_known_as_it_is_installed():
    names = {name for tasks in TASK_SETS.values() for name in tasks} - OWN_TASKS
    assert set(KNOWN) == names
    if HARNESS == FIRST:
        assert {name: definition_digest(name) for name in names} == KNOWN


def test_ids_stay_under_another_version_that_defines_a_task_alike(another_version):
    for name in ("sotu_blank", "hellaswag", "mmlu_anatomy"):
        assert task_protocol(name, 10)["harness"] == FIRST == "lm-eval 0.4.13"
    # Nobody knows what the first version's was: never joined, but told apart by content.
    digest = definition_digest("toxigen")
    assert task_protocol("toxigen")["harness"] == f"lm-eval task {digest}"


def test_a_prompt_or_the_code_behind_it_that_changes_is_another_protocol(another_version, edited):
    assert harness_in_ids("hellaswag") == FIRST  # wherever the harness lies
    source = (edited / "utils.py").read_text()
    for file, text in (("hellaswag.yaml", None), ("utils.py", source + "\n# changed\n")):
        path = edited / file
        before = path.read_text()
        path.write_text(text or before.replace('"{{query}}"', '"Q: {{query}}"'))
        task_config.cache_clear()
        harness_in_ids.cache_clear()
        assert harness_in_ids("hellaswag").startswith("lm-eval task ")
        path.write_text(before)


def test_what_is_said_beside_the_definition_does_not_count(another_version, edited):
    path = edited / "hellaswag.yaml"
    path.write_text(path.read_text().replace("- multiple_choice", "- another_tag"))
    assert harness_in_ids("hellaswag") == FIRST
