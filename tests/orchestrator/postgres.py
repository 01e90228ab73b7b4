"""A real PostgreSQL server for the tests: found, or installed, started on a socket, ended."""

import glob
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


def _binaries() -> Path | None:
    """The folder of initdb and pg_ctl."""
    found = shutil.which("pg_ctl")
    folders = [str(Path(found).parent)] if found else []
    folders += sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    return Path(folders[-1]) if folders else None


def _install() -> str | None:
    """Install the server as root on Debian or Ubuntu. Returns why not."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return "no PostgreSQL server on this machine, and no right to install one"
    command = ["apt-get", "install", "-y", "--no-install-recommends", "postgresql"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    return None if done.returncode == 0 else f"apt-get: {done.stderr.strip().splitlines()[-1]}"


@contextmanager
def server() -> Iterator[str]:
    """URL prefix and options of a running server, `{}` for the database's name. May skip."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install '.[postgres]'")
    binaries = _binaries()
    if binaries is None:
        reason = _install()
        if reason:
            pytest.skip(reason)
        binaries = _binaries()
    folder = tempfile.mkdtemp(prefix="kbitpg", dir="/tmp")
    data = f"{folder}/data"
    options = {}
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres")
        options = {"user": "postgres"}

    def run(program: str, *arguments: str) -> None:
        command = [binaries / program, *arguments]
        subprocess.run(
            command, cwd=folder, check=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options,
        )  # fmt: skip

    run("initdb", "-D", data, "-U", "kbit", "-A", "trust", "-E", "UTF8", "--no-sync")
    listen = f"-c listen_addresses='' -c fsync=off -k {folder}"
    run("pg_ctl", "-D", data, "-l", f"{folder}/log", "-w", "-o", listen, "start")
    try:
        yield f"postgresql+psycopg://kbit@/{{}}?host={folder}"
    finally:
        with suppress(subprocess.CalledProcessError):  # a test has ended it
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)
