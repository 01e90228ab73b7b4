"""`kbit demo`: sweep, answer and report, one after another, in the results folder."""

from pathlib import Path

import pytest

from tests.kbit.test_cli import kbit

STUDY = """
models: [sotu-neox-32x2, sotu-neox-64x2]
grids: [{bits: [16, 4], block_size: 64}]
tasks: sotu_blank
limit: 10
"""


def test_it_ends_in_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small.yaml").write_text(STUDY)
    monkeypatch.setattr("orchestrator.sweep.find_sweep", lambda named: tmp_path / f"{named}.yaml")
    monkeypatch.setenv("KBIT_RESULTS", str(tmp_path / "results"))
    run = kbit("demo", "--executor", "local")
    assert run.returncode == 2 and "demo.yaml: no such file" in run.stderr
    (tmp_path / "small.yaml").rename(tmp_path / "demo.yaml")
    run = kbit("demo", "--executor", "local")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "all 4 experiments are stored" in run.stdout and "sotu-neox" in run.stdout
    assert {"demo.db", "demo.html"} <= {file.name for file in (tmp_path / "results").iterdir()}
