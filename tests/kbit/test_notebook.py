"""Python for notebooks: `kbit.open`, and the notebook of the docs, which runs as it is."""

import ast
import json
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest

import kbit
from orchestrator.errors import InputError
from orchestrator.paths import ROOT
from tests.kbit.test_cli import kbit as command

STUDY = ROOT / "docs" / "embedded-study" / "results.csv.gz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """results/demo.db as the demo leaves it: the committed study's rows of its settings."""
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "results").mkdir()
    rows = pd.read_csv(STUDY)
    demo = (rows["block_size"] == 64) & (rows["data_type"] == "float") | (rows["bits"] == 16)
    chosen = demo & rows["bits"].isin([3, 4, 5, 16]) & (rows["outlier_fraction"] == 0)
    wanted = rows["metric"].isin(["cross_entropy", "acc"]) & rows["task"].str.startswith("sotu")
    columns = ["family", "model", "n_params", "bits", "data_type", "exponent_bits", "block_size"]
    columns += ["scope", "total_bits", "task", "metric", "value", "stderr", "n_items"]
    rows[chosen & wanted & ~rows["centered"].astype(bool)][columns].to_csv(
        folder / "rows.csv", index=False
    )
    run = command("import", folder / "rows.csv", "--db", folder / "results" / "demo.db")
    assert run.returncode == 0, run.stderr
    return folder


def test_the_notebook_of_the_docs_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    cells = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())["cells"]
    names: dict[str, object] = {}
    shown = []
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        assert not cell["outputs"]  # results are not source
        *statements, last = ast.parse("".join(cell["source"])).body
        exec(compile(ast.Module(statements, []), "notebook", "exec"), names)
        assert isinstance(last, ast.Expr)
        shown.append(eval(compile(ast.Expression(last.value), "notebook", "eval"), names))
    tables = [table for table in shown if isinstance(table, pd.DataFrame)]
    figures = [figure for figure in shown if isinstance(figure, go.Figure)]
    assert len(tables) == 3 and all(len(table) for table in tables)
    assert len(figures) == 2 and all(figure.data for figure in figures)


def test_it_answers_as_the_commands_do(folder: Path) -> None:
    db = folder / "results" / "demo.db"
    study = kbit.open(db)
    run = command("optimal", "--budget", "300KiB", "--metric", "cross_entropy", "--db", db,
                  "--format", "json")  # fmt: skip
    said = json.loads(run.stdout)
    found = study.optimal("300KiB", metric="cross_entropy")
    assert list(found["setting"]) == [row["setting"] for row in said]
    assert found["value"].tolist() == pytest.approx([row["value"] for row in said])
    curves = study.curves("cross_entropy")
    one = study.results()
    one = one[(one["metric"] == "cross_entropy") & (one["bits"] == 16)]
    sixteen = curves[curves["bits_a_weight"] == 16]
    assert sorted(sixteen["value"]) == pytest.approx(sorted(one["value"]))


def test_names_that_are_none_are_said(folder: Path, tmp_path: Path) -> None:
    study = kbit.open(folder / "results" / "demo.db")
    with pytest.raises(ValueError, match="figures are bit-optimal, figure-01"):
        study.figure("figure-99")
    with pytest.raises(ValueError, match="figure-03-block-size-4-bit, figure-03-data-type"):
        study.figure("figure-03")
    with pytest.raises(ValueError, match="no results of family 'none'"):
        study.results("none")
    with pytest.raises(InputError, match="no such database"):
        kbit.open(tmp_path / "x.db")
