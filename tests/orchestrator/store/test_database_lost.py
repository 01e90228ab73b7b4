"""The SQLite file is taken away under a sweep, or a second driver comes to it by another name."""

import os
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.errors import InputError, SweepStopped
from orchestrator.store import recent
from orchestrator.store.store import Store
from orchestrator.sweep import main
from tests.orchestrator.faulty import FaultyWorker
from tests.orchestrator.store.test_store import experiment, result

STUDY = """
models: [sotu-neox-32x2]
grids:
  - {bits: [8, 7, 6, 5, 4, 3], data_type: float, block_size: 64}
tasks: [sotu_blank]
limit: 20
"""


def remove(path: Path) -> None:
    path.unlink()


def remove_all_of_it(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def remove_its_log(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def move(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))


def replace(path: Path) -> None:
    Store.create(f"sqlite:///{path}.new").close()
    Path(f"{path}.new").replace(path)


def truncate(path: Path) -> None:
    os.truncate(path, 0)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def overwrite_by_another(path: Path) -> None:
    Store.create(f"sqlite:///{path}.new").close()
    shutil.copyfile(f"{path}.new", path)


def overwrite_by_rubbish(path: Path) -> None:
    path.write_bytes(b"rubbish " * 100_000)


WHOLE = [remove, remove_all_of_it, remove_its_log, move, replace]
IN_PLACE = [truncate, cut, overwrite_by_another, overwrite_by_rubbish]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


class Struck(FaultyWorker):
    """Before its fourth job ends, a disaster befalls the database."""

    def __init__(self, disaster, path: Path) -> None:
        super().__init__({}, path)
        self.disaster, self.path, self.jobs = disaster, path, 0

    def run(self, job):
        self.jobs += 1
        if self.jobs == 4:
            self.disaster(self.path)
        return super().run(job)


def sweep(study: Path, disaster=lambda path: None) -> int:
    path = study.parent / "t.db"
    command = [str(study), "--db", str(path), "--executor", "local"]
    return main(command, lambda: Struck(disaster, path))


def rescue_named(error: str) -> Path:
    assert error.count("\n") == 1 and error.startswith("error: sqlite:///"), error
    return Path(re.search(r"in (\S+\.db)", error).group(1))


def bits_in(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    return sorted(Store.open(f"sqlite:///{path}").results()["bits"])


@pytest.mark.parametrize("disaster", WHOLE)
def test_file_that_is_gone_is_noticed_and_everything_is_saved(study, disaster, capsys):
    assert sweep(study, disaster) == 3
    output = capsys.readouterr()
    assert "are stored" not in output.out
    rescue = rescue_named(output.err)
    assert bits_in(rescue) == [5, 6, 7, 8]  # the three of before, and the one in flight
    assert not (study.parent / "t.db-wal").exists()  # another process would replay it
    rescue.rename(study.parent / "t.db")  # as the message says, and nothing else
    assert bits_in(study.parent / "t.db") == [5, 6, 7, 8]
    assert sweep(study) == 0
    assert "4 stored, 2 to do" in capsys.readouterr().out
    assert bits_in(study.parent / "t.db") == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("disaster", IN_PLACE)
def test_content_that_is_gone_is_noticed_and_what_this_sweep_stored_is_saved(
    study, disaster, capsys
):
    assert sweep(study, disaster) == 3
    output = capsys.readouterr()
    assert "are stored" not in output.out
    rescue = rescue_named(output.err)
    assert bits_in(rescue) == [5, 6, 7, 8]  # from memory
    rescue.rename(study.parent / "t.db")  # as the message says, and nothing else
    assert bits_in(study.parent / "t.db") == [5, 6, 7, 8]
    assert sweep(study) == 0
    assert "4 stored, 2 to do" in capsys.readouterr().out


def test_moved_file_is_whole(study):
    """Its log, at the place that it left, belongs to it."""
    assert sweep(study, move) == 3
    assert bits_in(study.parent / "t.moved") == [6, 7, 8]
    assert not (study.parent / "t.db-wal").exists()


def test_memory_for_a_rescue_is_bounded(monkeypatch):
    monkeypatch.setattr(recent, "MOST_BYTES", 3 * 4200)
    kept = recent.Recent()
    for bits in range(2, 12):
        kept.add([result(bits)])
    assert [r.job.experiment.setting.bits for r in kept.results()] == [9, 10, 11]


def test_file_that_goes_during_a_transaction(tmp_path, monkeypatch):
    """It is written, and nobody would find it."""
    path = tmp_path / "t.db"
    store = Store.create(f"sqlite:///{path}")
    store.record(result(4))
    write = store._write

    def slow(action, results=()):
        return write(lambda connection: (action(connection), path.unlink()), results)

    monkeypatch.setattr(store, "_write", slow)
    with store.lock(), pytest.raises(SweepStopped, match="removed") as stopped:
        store.record(result(3))
    rescue = rescue_named(f"error: {stopped.value}\n")
    attempts = Store.open(f"sqlite:///{rescue}").attempts()
    assert attempts["bits"].tolist() == [4, 3]  # each once


def test_a_place_that_takes_no_rescue_file(tmp_path, monkeypatch):
    """Its folder is gone, too."""
    folder, results = tmp_path / "gone", tmp_path / "results"
    results.mkdir()
    monkeypatch.setenv("KBIT_RESULTS", str(results))
    store = Store.create(f"sqlite:///{folder}/t.db")
    shutil.rmtree(folder)
    with pytest.raises(SweepStopped) as stopped:
        store.record(result(3))
    assert rescue_named(f"error: {stopped.value}\n").parent == results


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_second_writer_by_another_name_is_refused(tmp_path, link):
    path, other = tmp_path / "t.db", tmp_path / "other.db"
    store = Store.create(f"sqlite:///{path}")
    link(path, other)
    with store.lock():
        for file in tmp_path.glob("*.lock"):
            file.unlink()
        second = Store.create(f"sqlite:///{other}")
        with pytest.raises(InputError, match=f"process {os.getpid()} on .* is writing to it"):
            second.lock().__enter__()
        second.close()
        store.record(result(4))  # the other's end took nothing away
        third = Store.create(f"sqlite:///{path}")
        with pytest.raises(InputError, match="is writing to it"):
            third.lock().__enter__()
    with third.lock():
        third.record(result(3))
    assert sorted(third.results()["experiment_id"]) == sorted([experiment(4).id, experiment(3).id])


def test_only_database_files_are_left(study):
    assert sweep(study) == 0
    assert [f.name for f in study.parent.iterdir() if f != study] == ["t.db"]
