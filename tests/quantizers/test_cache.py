from __future__ import annotations

import multiprocessing
import os
import time

import numpy as np
import pytest

from quantizers.cache import kept

ARRAYS = {"a": np.arange(5), "names": np.array(["x", "yz"])}


def never():
    raise AssertionError("built again")


def assert_same(arrays):
    assert set(arrays) == set(ARRAYS)
    for name, values in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], values)


def test_built_once_and_read_after(tmp_path):
    path = tmp_path / "deep" / "entry.npz"
    assert_same(kept(path, lambda: ARRAYS))
    assert_same(kept(path, never))


def test_nothing_is_kept_of_nothing_nor_of_a_build_that_fails(tmp_path):
    path = tmp_path / "entry.npz"
    assert kept(path, lambda: None) is None
    with pytest.raises(AssertionError):
        kept(path, never)
    assert_same(kept(path, lambda: ARRAYS))
    assert {file.name for file in tmp_path.iterdir()} == {"entry.npz", "entry.lock"}


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "other"])
def test_a_damaged_entry_is_built_again(tmp_path, damage, caplog):
    path = tmp_path / "entry.npz"
    kept(path, lambda: ARRAYS)
    whole = path.read_bytes()
    at = whole.index(ARRAYS["a"].tobytes()) + 3
    path.write_bytes(
        {
            "truncated": whole[: len(whole) // 2],
            "flipped": whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :],
            "empty": b"",
            "other": b"not what was kept here",
        }[damage]
    )
    assert_same(kept(path, lambda: ARRAYS))
    assert "built again" in caplog.text
    assert_same(kept(path, never))


def _ask(path, builds, started):
    def build():
        builds.append(os.getpid())
        time.sleep(0.3)
        return ARRAYS

    started.wait()
    assert_same(kept(path, build))


def test_of_several_processes_one_builds(tmp_path):
    context = multiprocessing.get_context("fork")
    with context.Manager() as manager:
        builds, started = manager.list(), manager.Event()
        asking = [
            context.Process(target=_ask, args=(tmp_path / "entry.npz", builds, started))
            for _ in range(4)
        ]
        for process in asking:
            process.start()
        started.set()
        for process in asking:
            process.join(30)
        assert [process.exitcode for process in asking] == [0] * 4
        assert len(builds) == 1


def test_a_builder_that_is_killed_holds_up_nobody(tmp_path):
    path = tmp_path / "entry.npz"

    def build_forever():
        (tmp_path / "building").touch()
        time.sleep(60)

    process = multiprocessing.get_context("fork").Process(target=kept, args=(path, build_forever))
    process.start()
    while not (tmp_path / "building").exists():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert_same(kept(path, lambda: ARRAYS))


def test_a_folder_that_cannot_be_written_does_not_matter(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    assert_same(kept(tmp_path / "file" / "entry.npz", lambda: ARRAYS))
    assert "cannot be kept" in caplog.text


def test_a_disk_that_is_full_does_not_matter(tmp_path, caplog, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert_same(kept(tmp_path / "entry.npz", lambda: ARRAYS))
    assert "No space left" in caplog.text
    assert {file.name for file in tmp_path.iterdir()} == {"entry.lock"}
