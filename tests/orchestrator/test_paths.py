"""Where `--db` leads: paths and URLs, relative or not, one spelling a file."""

from pathlib import Path

import pytest

from orchestrator.errors import InputError
from orchestrator.paths import database_url
from orchestrator.store.store import Store


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBIT_RESULTS", str(tmp_path / "results"))
    return tmp_path


@pytest.mark.parametrize(
    ("db", "file"),
    [
        (None, "results/study.db"),
        ("a.db", "a.db"),
        ("{folder}/a.db", "a.db"),
        ("sqlite:///a.db", "a.db"),
        ("sqlite:///{folder}/a.db", "a.db"),
        ("sqlite+pysqlite:///{folder}/a.db", "a.db"),
        ("sqlite+pysqlite:///a.db", "a.db"),
        ("100% a?.db", "100% a?.db"),
    ],
)
def test_every_spelling_of_a_file_leads_there(folder, db, file):
    url = database_url(db and db.format(folder=folder), "study")
    Store.create(url)
    assert (folder / file).is_file()
    assert Store.open(url).url == url


def test_other_urls_stay_as_given(folder):
    for url in ("postgresql+psycopg://me:word@host/db", "nosuchdialect://x", "://"):
        assert database_url(url) == url


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_results_belong_in_a_file(folder, url):
    with pytest.raises(InputError, match="give a path"):
        database_url(url)
