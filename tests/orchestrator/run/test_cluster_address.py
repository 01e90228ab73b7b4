"""Which cluster a sweep joins: found where Ray looks, believed only if it is ours and is one."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from orchestrator.errors import SweepStopped
from orchestrator.run.cluster_address import check_answer, running_cluster
from tests.orchestrator import processes


@contextmanager
def server(answer: bytes | None) -> Iterator[str]:
    """host:port of something that answers whatever it is told; None: never."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:  # the end of the test
                    return
                if answer is not None:
                    connection.recv(100)
                    connection.sendall(answer)
                    connection.close()
                else:
                    silent.append(connection)

        silent: list[socket.socket] = []
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)  # wakes the thread


@pytest.fixture
def ray_file(tmp_path, monkeypatch):
    """The file in which Ray keeps its current cluster, of a machine with TMPDIR set."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


def test_the_cluster_of_ray_start_is_found_where_ray_keeps_it(ray_file, monkeypatch):
    assert running_cluster() is None
    with server(b"") as address:
        ray_file.write_text(address)
        assert running_cluster() == (str(ray_file), address)
        monkeypatch.setenv("RAY_ADDRESS", "local")
        assert running_cluster() is None
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
        assert running_cluster() == ("RAY_ADDRESS", "10.0.0.1:6379")
        monkeypatch.delenv("RAY_ADDRESS")
    assert running_cluster() is None  # it has ended, and left its file


def test_a_file_of_another_user_is_not_believed(ray_file, monkeypatch, capsys):
    with server(b"") as address:
        ray_file.write_text(address)
        monkeypatch.setattr(os, "getuid", lambda: ray_file.stat().st_uid + 1)
        assert running_cluster() is None
    assert "not yours" in capsys.readouterr().err


def test_neither_is_a_link(ray_file):
    with server(b"") as address:
        (ray_file.parent / "elsewhere").write_text(address)
        ray_file.symlink_to(ray_file.parent / "elsewhere")
        assert running_cluster() is None


@pytest.mark.parametrize(
    "garbage", ["garbage", "\0\1\2", "ray://head:10001", "http://h:8265", ":1"]
)
def test_garbage_is_named_in_one_line(ray_file, monkeypatch, garbage):
    ray_file.write_text(garbage)
    with pytest.raises(SweepStopped, match="ray_current_cluster: .* is no address") as error:
        running_cluster()
    assert str(error.value).isprintable()
    if "\0" not in garbage:
        monkeypatch.setenv("RAY_ADDRESS", garbage)
        with pytest.raises(SweepStopped, match="RAY_ADDRESS: .* is no address"):
            running_cluster()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n", b""])
def test_what_is_no_cluster_is_told_apart(answer):
    with server(answer) as address, pytest.raises(SweepStopped, match="RAY_ADDRESS: .*no Ray"):
        check_answer("RAY_ADDRESS", address)


def test_what_never_answers_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("orchestrator.run.cluster_address.ANSWER_SECONDS", 0.5)
    with server(None) as address, pytest.raises(SweepStopped, match="no Ray cluster answers"):
        check_answer("RAY_ADDRESS", address)


@pytest.mark.parametrize(
    ("environment", "code", "message"),
    [
        ({"RAY_ADDRESS": "127.0.0.1:1"}, 3, "no Ray cluster answers at 127.0.0.1:1"),
        ({"RAY_TMPDIR": "/tmp/" + 60 * "long"}, 2, "bytes too long for Ray's sockets"),
    ],
)
def test_a_sweep_says_so_in_one_line(study, environment, code, message):
    command = [sys.executable, "-m", "kbit.cli", "sweep", study, "--db", study.parent / "t.db"]
    run = subprocess.run(
        command, text=True, capture_output=True, timeout=60,
        env={**processes.ENVIRONMENT, **environment},
    )  # fmt: skip
    assert run.returncode == code
    [line] = run.stderr.splitlines()
    assert message in line and "the same command" not in line


def test_a_start_that_hangs_is_ended_in_one_line():
    """Ray's waits hear no signal: what hangs is the whole process."""
    hang = (
        "import time; from orchestrator.run.connection import _deadline\n"
        "with _deadline(0.2, 'nothing answers'): time.sleep(60)"
    )
    run = subprocess.run([sys.executable, "-c", hang], text=True, capture_output=True, timeout=30)
    assert (run.returncode, run.stderr) == (3, "error: nothing answers\n")
