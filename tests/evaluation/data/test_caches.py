"""What is kept on disk can be built again: damaged or unwritable, no answer depends on it."""

import json
import logging
import os
from pathlib import Path

import pytest

from evaluation.data import cache_folder
from evaluation.data.cache_folder import cache_directory
from evaluation.sotu import tasks as sotu_tasks
from evaluation.tasks import index as task_index


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of this test alone, and a temporary folder to fall back on."""
    monkeypatch.setenv("KBIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache_folder.tempfile, "tempdir", str(tmp_path))
    for function in (cache_folder._usable, task_index._harness, sotu_tasks._is_whole):
        function.cache_clear()
    yield tmp_path / "cache"
    for function in (cache_folder._usable, task_index._harness, sotu_tasks._is_whole):
        function.cache_clear()


def test_a_cache_that_cannot_be_written_is_replaced_and_said_once(cache, tmp_path, caplog):
    cache.write_text("a file where a folder should be")
    with caplog.at_level(logging.WARNING):
        folders = {cache_directory() for _ in range(3)}
    assert folders == {tmp_path / f"kbit-cache-{os.getuid()}"}
    assert len(caplog.records) == 1 and "nothing can be kept there" in caplog.text


def test_a_full_disk_is_noticed(cache, tmp_path, monkeypatch):
    def full(folder: Path) -> None:
        if folder == cache:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_folder, "_try_to_write", full)
    assert cache_directory() == tmp_path / f"kbit-cache-{os.getuid()}"


def test_a_user_without_a_home_has_a_cache(cache, tmp_path, monkeypatch):
    monkeypatch.delenv("KBIT_CACHE")
    monkeypatch.setenv("HOME", "/proc/nowhere")
    assert cache_directory() == tmp_path / f"kbit-cache-{os.getuid()}"


def test_a_folder_of_somebody_else_is_not_used(cache, tmp_path, monkeypatch):
    cache.write_text("")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"kbit-cache-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    assert cache_directory().name.startswith("kbit-cache-")
    assert not cache_directory().is_symlink()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"tasks": {}}'])
def test_a_damaged_index_is_made_again(cache, monkeypatch, content):
    index = {"tasks": {"piqa": "piqa/piqa.yaml"}, "groups": {}}
    monkeypatch.setattr(task_index, "_index_harness", lambda: index)
    cache.mkdir()
    task_index._index_file().write_text(content)
    assert task_index.task_names("piqa") == ["piqa"]
    assert json.loads(task_index._index_file().read_text()) == index


def test_a_typo_does_not_wait_for_the_index(cache, monkeypatch):
    monkeypatch.setattr(task_index, "_index_harness", lambda: pytest.fail("indexed"))
    with pytest.raises(ValueError, match="did you mean hellaswag"):
        task_index.task_names("hellaswagg")
    with pytest.raises(ValueError, match="did you mean sotu_blank"):
        task_index.task_names("sotu_blnk")


def test_the_text_that_is_searched_names_every_task_of_our_sets():
    from evaluation.tasks.sets import RUN_SETS

    names = {n for ns in RUN_SETS.values() for n in ns} - {*sotu_tasks.SOTU_TASKS, "paralex"}
    assert names <= task_index._words()


def test_a_damaged_task_file_is_built_again(cache, monkeypatch):
    def write(tasks, folder: Path, final: Path) -> None:
        for name in sotu_tasks.SOTU_TASKS:
            (folder / f"{name}.jsonl").write_text("{}\n")
            (folder / f"{name}.yaml").write_text(f"task: {name}\n")
        (folder / "sha256.json").write_text(
            json.dumps(dict.fromkeys(sotu_tasks.SOTU_TASKS, DIGEST))
        )

    monkeypatch.setattr(sotu_tasks, "_write", write)
    monkeypatch.setattr("evaluation.sotu.items.build_items", lambda: {})
    folder = sotu_tasks.task_directory()
    data = folder / "sotu_blank.jsonl"
    data.write_text("{")
    sotu_tasks._is_whole.cache_clear()
    assert sotu_tasks.task_directory() == folder
    assert data.read_text() == "{}\n"


DIGEST = "ca3d163bab055381827226140568f3bef7eaac187cebd76878e0b63e9e442356"  # of "{}\n"
