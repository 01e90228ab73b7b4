"""Names: single tasks, sets of ours, groups of the harness."""

from __future__ import annotations

import pytest

from evaluation.tasks import index as task_index
from evaluation.tasks.index import task_config, task_names
from evaluation.tasks.mmlu import MMLU_GROUPS, MMLU_TASKS
from evaluation.tasks.sets import CHANCE, RUN_SETS, SIZE_WEIGHTED, TASK_SETS


def test_the_harness_groups_are_expanded():
    names = task_names("ai2_arc")
    assert set(names) == {"arc_easy", "arc_challenge"}
    assert set(task_names("storycloze")) == {"storycloze_2016", "storycloze_2018"}
    assert task_names("piqa") == ["piqa"]


def test_mmlu_is_as_the_harness_has_it():
    groups = task_index._harness()["groups"]
    assert len(MMLU_TASKS) == 57
    for group, tasks in MMLU_GROUPS.items():
        assert set(groups[f"{group}_tasks"]) == set(tasks) and groups[group] == [f"{group}_tasks"]
    assert set(groups["mmlu"]) == set(MMLU_GROUPS)


@pytest.mark.parametrize("name", RUN_SETS)
def test_every_set_holds_tasks_that_can_be_scored(name):
    for task in task_names(name):
        assert 0 <= CHANCE[task] < 1
        task_config(task)


def test_sets_with_a_mean_over_items_are_of_one_metric():
    assert set(TASK_SETS) >= SIZE_WEIGHTED
    for name in SIZE_WEIGHTED:
        assert len(set(TASK_SETS[name].values())) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mmlu_stm", "did you mean .*mmlu_stem"),
        ("fptqq", "did you mean fptq"),
        ("paralexx", "did you mean paralex"),
    ],
)
def test_unknown_names_get_the_nearest(name, message):
    with pytest.raises(ValueError, match=message):
        task_names(name)


def test_a_group_that_changes_its_tasks_is_refused(monkeypatch):
    index = {"tasks": {"a": "a.yaml"}, "groups": {"g": ["a", "h"], "h": None, "k": ["a", "a"]}}
    monkeypatch.setattr(task_index, "_harness", lambda: index)
    with pytest.raises(ValueError, match="'h' gives its tasks settings of its own"):
        task_names("g")
    assert task_names("k") == ["a"]


def test_generation_and_coded_tasks_are_refused_by_name():
    for name in ("gsm8k", "humaneval", "squadv2"):
        with pytest.raises(ValueError, match=f"{name!r} (generates text|is defined by its own)"):
            task_config(name)
