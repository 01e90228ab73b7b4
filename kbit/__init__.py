"""The `kbit` command, and what a notebook needs of it: `kbit.open("results/demo.db")`.

Imported beside `transformers`, it makes exported models loadable.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kbit.on_import import register_format

if TYPE_CHECKING:
    from kbit.study_results import StudyResults

register_format()


def open(db: str | Path | None = None) -> StudyResults:
    """The results of a study, to be read: a database's path or SQLAlchemy URL; without one the
    newest in the results folder. Raises InputError where there is none."""
    from kbit.study_results import StudyResults

    return StudyResults(None if db is None else str(db))
