"""Where things lie: the repository root, the results folder, relative database paths."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def runs_from_ray_package() -> bool:
    """True inside the copy that `ray job submit --working-dir` unpacks and later deletes."""
    return "runtime_resources" in ROOT.parts and "working_dir_files" in ROOT.parts


def results_dir() -> Path:
    """Folder for databases and reports: $KBIT_RESULTS, else `results/` of the repository.

    In Ray's unpacked copy that folder would be lost with the job: there it is ~/kbit-results.
    """
    if configured := os.environ.get("KBIT_RESULTS"):
        return Path(configured).expanduser().resolve()
    return Path.home() / "kbit-results" if runs_from_ray_package() else ROOT / "results"


def database_url(db: str | None, name: str = "kbit") -> str:
    """Absolute SQLAlchemy URL for `--db`: a URL as given, a path made absolute, or the default.

    A relative path is taken from the current folder, except in Ray's unpacked copy (see above).
    """
    if db and "://" in db and not db.startswith("sqlite"):
        return db
    path = Path((db or "").removeprefix("sqlite:///")).expanduser()
    if not db:
        path = results_dir() / f"{name}.db"
    elif not path.is_absolute():
        base = results_dir() if runs_from_ray_package() else Path.cwd()
        path = base / path
    return f"sqlite:///{path.resolve()}"
