"""`compute: {streaming: true}`: the same rows as resident models give, one task a model."""

from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import text

from kbit.cli import main
from orchestrator.store.store import Store

STUDY = """
models: [sotu-bloom-32x2, sotu-neox-32x2]
grids:
  - {{bits: [16, 4], data_type: float, block_size: 64}}
  - {{bits: 3, data_type: int, block_size: 32, outlier_fraction: 0.05}}
  - {{bits: 4, data_type: quantile, block_size: 64, scope: all}}
  - {{bits: 8, data_type: int, block_size: row, activations: {{token: 8}}}}
tasks: [sotu_blank]
limit: 20
corpora:
  - {{name: sotu, max_tokens: 3000}}
compute: {compute}
"""


def swept(folder: Path, compute: str, code: int = 0) -> Store:
    """The database of a sweep, made by one worker in this process."""
    folder.mkdir()
    study, db = folder / "study.yaml", folder / "study.db"
    study.write_text(STUDY.format(compute=compute))
    assert main(["sweep", str(study), "--db", str(db), "--executor", "local"]) == code
    return Store.open(f"sqlite:///{db}")


def rows(store: Store, query: str) -> pd.DataFrame:
    with store.reading() as connection:
        return pd.read_sql(text(query), connection)


def test_streamed_rows_are_those_of_resident_models(tmp_path):
    resident = swept(tmp_path / "resident", "{device: cpu}")
    streamed = swept(tmp_path / "streamed", "{device: cpu, streaming: true, hidden_memory: 1MB}")
    for store in (resident, streamed):
        assert len(store.results()) == 2 * 5 * 5
    pd.testing.assert_frame_equal(resident.results(), streamed.results())
    items = "SELECT i.* FROM item_scores i ORDER BY experiment, protocol, metric"
    pd.testing.assert_frame_equal(rows(resident, items), rows(streamed, items))
    sites = "SELECT * FROM site_records ORDER BY attempt, site, quantity"
    pd.testing.assert_frame_equal(rows(resident, sites), rows(streamed, sites))
    attempts = "SELECT streamed, arithmetic, tokens_per_batch FROM attempts ORDER BY experiment"
    first, second = rows(resident, attempts), rows(streamed, attempts)
    assert not first.pop("streamed").any() and second.pop("streamed").all()
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ("{bits: 4, data_type: int, block_size: 64, folding: {hadamard: {seed: 0}}}", "hadamard"),
    ],
)
def test_what_cannot_be_streamed_is_refused_in_a_line(tmp_path, capsys, grid, said):
    study = tmp_path / "study.yaml"
    study.write_text(
        f"models: [sotu-neox-32x2]\ngrids:\n  - {grid}\ncorpora: [sotu]\n"
        "compute: {streaming: true}\n"
    )
    db = tmp_path / "study.db"
    assert main(["sweep", str(study), "--db", str(db), "--executor", "local"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "model sotu-neox-32x2" in line and said in line and not db.exists()
