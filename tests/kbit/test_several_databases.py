"""merge, compare and export-dataset: results of several machines, and for other people."""

import json
import sqlite3
from pathlib import Path

import pandas as pd
import pytest

from orchestrator.store.reading import read_item_scores, read_results
from orchestrator.store.store import Store
from tests.kbit.test_cli import kbit

STUDY = """
models: [{models}]
grids: [{{bits: [16, {bits}], block_size: 64}}]
tasks: sotu_blank
limit: 10
corpora: [{{name: sotu, max_tokens: 600}}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.db and b.db share the 16-bit experiment of one model."""
    folder = tmp_path_factory.mktemp("several")
    for name, models, bits in (("a", "sotu-neox-32x2", 4), ("b", "sotu-neox-32x2", 3)):
        (folder / f"{name}.yaml").write_text(STUDY.format(models=models, bits=bits))
        db = folder / f"{name}.db"
        run = kbit("sweep", folder / f"{name}.yaml", "--db", db, "--executor", "local")
        assert run.returncode == 0, run.stderr
    return folder


def rows_of(db: Path) -> pd.DataFrame:
    rows = read_results(Store.open(f"sqlite:///{db}"))
    return rows.sort_values(["experiment_id", "protocol", "metric"]).reset_index(drop=True)


def changed(folder: Path, tmp_path: Path, sql: str) -> Path:
    copy = tmp_path / "changed.db"
    copy.write_bytes((folder / "b.db").read_bytes())
    with sqlite3.connect(copy) as connection:
        connection.execute(sql)
    connection.close()
    return copy


def test_merged_is_all_of_both(folder: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.db"
    run = kbit("merge", folder / "a.db", folder / "b.db", "--output", both)
    assert run.returncode == 0 and "3 experiments of 1 models" in run.stdout, run.stderr
    parts = pd.concat([rows_of(folder / "a.db"), rows_of(folder / "b.db")]).drop_duplicates()
    parts = parts.sort_values(["experiment_id", "protocol", "metric"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(rows_of(both), parts)
    store, ids = Store.open(f"sqlite:///{both}"), list(parts["experiment_id"].unique())
    assert set(read_item_scores(store, ids, "sotu_blank", "acc")) == set(ids)
    assert len(store.attempts()) == 4  # the 16-bit one was run twice
    again = tmp_path / "again.db"  # merging what is merged already adds nothing
    assert kbit("merge", both, folder / "a.db", both, "--output", again).returncode == 0
    pd.testing.assert_frame_equal(rows_of(again), rows_of(both))
    assert len(Store.open(f"sqlite:///{again}").attempts()) == 4
    # A sweep goes on in it: nothing of either is run again.
    dry = kbit("sweep", folder / "a.yaml", "--db", both, "--executor", "local")
    assert dry.returncode == 0 and len(Store.open(f"sqlite:///{both}").attempts()) == 4


def test_conflicts_are_refused(folder: Path, tmp_path: Path) -> None:
    other = changed(folder, tmp_path, "UPDATE measurements SET value = value + 1e-9")
    run = kbit("merge", folder / "a.db", other, "--output", tmp_path / "x.db")
    assert run.returncode == 2 and "holds another" in run.stderr and "16 bit" in run.stderr
    assert not (tmp_path / "x.db").exists()
    (tmp_path / "x.db").write_text("mine")
    run = kbit("merge", folder / "a.db", "--output", tmp_path / "x.db")
    assert run.returncode == 2 and (tmp_path / "x.db").read_text() == "mine"


def test_comparison_is_paired(folder: Path, tmp_path: Path) -> None:
    run = kbit("compare", folder / "a.db", folder / "b.db", "--format", "json")
    table = pd.DataFrame(json.loads(run.stdout))
    assert (table["identical"] == table["experiments"]).all()  # of the 16-bit one, they share it
    assert set(table["experiments"]) == {1} and (table["largest"] == 0).all()
    other = changed(
        folder, tmp_path, "UPDATE measurements SET value = value + 0.25 WHERE metric = 'acc'"
    )
    run = kbit("compare", folder / "b.db", other, "--format", "json")
    table = pd.DataFrame(json.loads(run.stdout)).set_index("metric")
    assert table.loc["acc", "difference"] == pytest.approx(0.25)
    assert table.loc["acc", "identical"] == 0 and table.loc["acc", "experiments"] == 2
    assert table.loc["cross_entropy", "identical"] == 2
    shown = kbit("compare", folder / "a.db", folder / "b.db").stdout
    assert "1 experiments in both, 1 in the first alone, 1 in the second alone" in shown
    assert "torch" in shown


def test_the_data_set_is_the_database(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "set"
    run = kbit("export-dataset", "--db", folder / "a.db", "--output", output)
    assert run.returncode == 0, run.stderr
    results = pd.read_parquet(output / "results.parquet")
    expected = rows_of(folder / "a.db")
    assert len(results) == len(expected)
    assert list(results.drop(columns="recipe").columns) == list(expected.columns)
    items = pd.read_parquet(output / "items.parquet")
    means = items[items["metric"] == "acc"].groupby("experiment_id")["score"].mean()
    stored = expected[expected["metric"] == "acc"].set_index("experiment_id")["value"]
    assert means.to_dict() == pytest.approx(stored.to_dict())
    card = (output / "README.md").read_text()
    assert all(f"| `{name}` |" in card for name in results.columns)
    assert "2 experiments" in card and "sotu-neox" in card
    run = kbit("export-dataset", "--db", folder / "a.db", "--output", output)
    assert run.returncode == 2 and "is there already" in run.stderr
