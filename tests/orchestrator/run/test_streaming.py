"""`compute: {streaming: true}`: the same rows as resident models give, one task a model."""

from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import text

from evaluation.data.cache_folder import cache_directory
from kbit.cli import main
from orchestrator.store.store import Store
from quantizers.streamed_model import StreamedModel

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


CALIBRATED = """
models: [{model}]
calibrations:
  text: {{corpus: sotu, windows: 6, length: 128}}
grids:
  - {{bits: [3, 4], data_type: int, block_size: 32, rounding: gptq, calibration: text}}
  - {{bits: 3, data_type: float, block_size: 64, rounding: {{gptq: {{hessian: sequential}}}},
     calibration: text}}
  - {{bits: 4, data_type: int, block_size: row, folding: [smoothquant, awq], calibration: text,
     activations: [{{tensor: 8}}, {{token: 8}}], kv: {{tensor: 8}}}}
  - {{bits: 4, data_type: int, block_size: row, activations: by_range, calibration: text}}
corpora:
  - {{name: sotu, max_tokens: 2000}}
compute: {{device: cpu, streaming: {streaming}}}
"""


@pytest.mark.parametrize("model", ["sotu-opt-32x4", "sotu-llama-32x4"])
def test_calibrations_are_streamed_to_the_same_rows(tmp_path, model):
    stores = []
    for streaming in ("false", "true"):
        study, db = tmp_path / f"{streaming}.yaml", tmp_path / f"{streaming}.db"
        study.write_text(CALIBRATED.format(model=model, streaming=streaming))
        assert main(["sweep", str(study), "--db", str(db), "--executor", "local"]) == 0
        stores.append(Store.open(f"sqlite:///{db}"))
    resident, streamed = stores
    pd.testing.assert_frame_equal(resident.results(), streamed.results())
    sites = """SELECT a.experiment, s.* FROM site_records s JOIN attempts a ON a.number = s.attempt
               ORDER BY a.experiment, site, quantity"""
    first, second = rows(resident, sites), rows(streamed, sites)
    assert len(first) and set(first["quantity"])
    pd.testing.assert_frame_equal(first.drop(columns="attempt"), second.drop(columns="attempt"))


class _Stopped(BaseException):
    """Of a process that is ended."""


def test_a_walk_that_was_ended_goes_on_at_the_block_it_came_to(tmp_path, monkeypatch):
    before = set(cache_directory().glob("streaming/*"))
    whole = swept(tmp_path / "whole", "{device: cpu, streaming: true}").results()
    load, loaded = StreamedModel.load, []

    def loading(self, number):
        loaded.append(number)
        if len(loaded) == 3:  # the second block; the first is loaded twice, to find habits on
            raise _Stopped
        return load(self, number)

    compute = "{device: cpu, streaming: true, hidden_memory: 100kB}"
    with monkeypatch.context() as patch, pytest.raises(_Stopped):
        patch.setattr(StreamedModel, "load", loading)
        swept(tmp_path / "ended", compute)
    [left] = set(cache_directory().glob("streaming/*")) - before
    assert (left / "block-1" / "progress.pickle").exists()
    loaded.clear()
    with monkeypatch.context() as patch:
        patch.setattr(StreamedModel, "load", lambda m, n: (loaded.append(n), load(m, n))[1])
        study, db = tmp_path / "ended" / "study.yaml", tmp_path / "ended" / "study.db"
        assert main(["sweep", str(study), "--db", str(db), "--executor", "local"]) == 0
    assert loaded[:2] == [0, 1], "the first block is read for its habits alone"
    assert loaded[2:] == [0, 0, 1]
    pd.testing.assert_frame_equal(whole, Store.open(f"sqlite:///{db}").results())
    assert not left.exists()


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
