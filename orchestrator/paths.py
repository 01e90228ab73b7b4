"""Where things lie: what kbit ships, the results folder, relative database paths."""

from __future__ import annotations

import os
from pathlib import Path

from evaluation.shipped import IS_CHECKOUT, ROOT, SHIPPED
from orchestrator.errors import InputError


def real(path: Path | str) -> Path:
    """The absolute path, links followed: one that leads to itself stays, and is none to open."""
    return Path(os.path.realpath(os.path.expanduser(path)))


def runs_from_ray_package() -> bool:
    """True inside the copy that `ray job submit --working-dir` unpacks and later deletes."""
    return "runtime_resources" in ROOT.parts and "working_dir_files" in ROOT.parts


def results_dir() -> Path:
    """Folder for databases and reports: $KBIT_RESULTS, else `results/` of the repository, or of
    the current folder where kbit is not run from a checkout.

    In Ray's unpacked copy that folder would be lost with the job: there it is ~/kbit-results.
    """
    if configured := os.environ.get("KBIT_RESULTS"):
        return real(configured)
    if runs_from_ray_package():
        return Path.home() / "kbit-results"
    return (ROOT if IS_CHECKOUT else Path.cwd()) / "results"


def find_sweep(named: Path) -> Path:
    """A sweep file as it is named, else the shipped one of that name: demo, sweeps/demo.yaml.

    Raises InputError, with what is shipped, for a bare name that is neither.
    """
    shipped = SHIPPED / "sweeps" / f"{named.stem}.yaml"
    unnamed = named.parent in (Path("."), Path("sweeps")) and named.suffix in ("", ".yaml")
    if not unnamed or os.path.lexists(named):
        return named
    if not shipped.is_file() and named.suffix == "" and named.parent == Path("."):
        known = ", ".join(sorted(file.stem for file in shipped.parent.glob("*.yaml")))
        raise InputError(f"{named}: no such file, and no shipped sweep; there are {known}")
    return shipped if shipped.is_file() else named


def writable(path: Path) -> Path:
    """Where to write what a shipped study file has in `../results` or `../docs`: never among
    installed files."""
    for name in ("results",) if IS_CHECKOUT else ("results", "docs"):
        beside = SHIPPED / name
        if path.is_relative_to(beside):
            return results_dir() / path.relative_to(beside)
    return path


def database_url(db: str | None, name: str = "kbit") -> str:
    """Absolute SQLAlchemy URL for `--db`: a URL as given, a path made absolute, or the default.

    A relative path is taken from the current folder, except in Ray's unpacked copy (see above).
    Raises InputError for a SQLite URL that names no file.
    """
    from sqlalchemy import URL, make_url  # here: workers import this file, and need no database
    from sqlalchemy.exc import ArgumentError

    url = URL.create("sqlite", database=db or str(results_dir() / f"{name}.db"))
    if db and "://" in db:
        try:
            url = make_url(db)
        except ArgumentError:
            return db  # refused where it is opened
        if url.get_backend_name() != "sqlite":
            return db
        if url.database in (None, "", ":memory:"):
            raise InputError(f"--db {db}: results belong in a file; give a path")
    path = Path(os.path.expanduser(str(url.database)))
    if not path.is_absolute():
        path = (results_dir() if runs_from_ray_package() else Path.cwd()) / path
    url = url.set(drivername="sqlite", database=str(real(path)))
    return url.render_as_string(hide_password=False)
