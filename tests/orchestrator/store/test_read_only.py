"""A finished database where nothing can be written: another user's, or on a read-only disk."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from kbit import cli, results, status  # noqa: F401  nobody may not read what Python imports
from orchestrator.errors import InputError
from orchestrator.store.store import Store
from tests.orchestrator.store.test_store import result

NOBODY = 65534


@contextmanager
def read_only(folder: Path):
    """Nothing in the folder can be written, also by root, who then is somebody else."""
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        os.chmod(path, 0o755)
        yield Path(path)


@pytest.mark.parametrize("command", ["status", "results"])
def test_finished_database_is_read(folder, command, capsys):
    store = Store.create(f"sqlite:///{folder}/a b?#%41.db")
    store.record(result(4), result(3))
    store.close()
    (path,) = folder.iterdir()
    with read_only(folder):
        with pytest.raises(OSError):
            (folder / "x").touch()
        assert cli.main([command, "--db", str(path), "--format", "csv"]) == 0
        assert len(Store.open(f"sqlite:///{folder}/a b?#%41.db").results()) == 2
        with pytest.raises(InputError, match="cannot be written|readonly"):
            Store.create(f"sqlite:///{path}")
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert list(folder.iterdir()) == [path]


def test_what_the_log_holds_is_never_left_out(folder):
    """Its driver was killed: read with its log, or refused, but not without."""
    store = Store.create(f"sqlite:///{folder}/t.db")
    store.record(result(4))
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        killed = Path(name)
        killed.chmod(0o755)
        for end in ("", "-wal"):
            shutil.copy(f"{folder}/t.db{end}", killed)
        assert (killed / "t.db-wal").stat().st_size > 0
        with read_only(killed):
            try:
                assert len(Store.open(f"sqlite:///{killed}/t.db").results()) == 1
            except InputError as error:
                assert "t.db-wal" in str(error)
