"""Published tables through every command that answers: what is known is used, no more."""

import itertools
import json
import math
from pathlib import Path

import pytest

from tests.kbit.command import kbit

HEAD = "family,model,n_params,bits,data_type,method,task,metric,value\n"
SIZES = {"P-1B": 1_000_000_000, "P-3B": 3_000_000_000, "P-9B": 9_000_000_000}


@pytest.fixture(scope="module")
def perplexities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table that gives perplexities alone, as papers on quantization do."""
    folder = tmp_path_factory.mktemp("table")
    loss = {16: 1.0, 4: 1.1, 3: 3.0}
    rows = [
        f"P,{model},{size},{bits},{'int' if bits < 16 else ''},,wikitext2,perplexity,"
        f"{(10 - i) * loss[bits]:.2f}"
        for (i, (model, size)), bits in itertools.product(enumerate(SIZES.items()), loss)
    ]
    (folder / "table.csv").write_text(HEAD + "\n".join(rows) + "\n")
    code, out, err = kbit("import", folder / "table.csv", "--db", folder / "t.db")
    assert code == 0, err
    assert "18 of 18 rows are new, of 9 experiments" in out and "their logarithms" in out
    return folder / "t.db"


@pytest.mark.parametrize("metric", ["perplexity", "cross_entropy"])
def test_optimal_answers_by_perplexity_and_by_cross_entropy(perplexities, metric: str) -> None:
    code, out, err = kbit(
        "optimal", "--db", perplexities, "--metric", metric, "--budget", "1GiB", "--format", "json"
    )
    assert code == 0, err
    (answer,) = json.loads(out)
    assert answer["family"] == "P" and answer["bits"] == 4
    losses = {"perplexity": (9.9, 11.0), "cross_entropy": (math.log(9.9), math.log(11.0))}
    assert losses[metric][0] < answer["value"] < losses[metric][1]  # between P-3B's and P-1B's


def test_status_report_and_study_see_them(perplexities: Path, tmp_path: Path) -> None:
    code, out, err = kbit("status", "--db", perplexities)
    assert code == 0, err
    assert "9 imported" in out and "table.csv" in out
    code, _, err = kbit("report", "--db", perplexities, "--output", tmp_path / "report.html")
    assert code == 0, err
    assert "wikitext2" in (tmp_path / "report.html").read_text()
    code, _, err = kbit("study", tmp_path / "study", "--text-only", "--db", perplexities)
    assert code == 0, err
    assert "4-bit" in (tmp_path / "study.md").read_text()


def test_fractions_of_bits_are_precisions_of_their_own(tmp_path: Path) -> None:
    loss = {"16": 0.0, "4": 0.02, "2.5": 0.05, "1.58": 0.08, "1": 0.4}
    rows = [
        f"H,{model},{size},{bits},int,qat,c4,cross_entropy,{3.4 - 0.2 * i + loss[bits]:.3f}"
        for (i, (model, size)), bits in itertools.product(enumerate(SIZES.items()), loss)
    ]
    (tmp_path / "t.csv").write_text(HEAD + "\n".join(rows) + "\n")
    database = tmp_path / "t.db"
    assert kbit("import", tmp_path / "t.csv", "--db", database)[0] == 0
    code, out, err = kbit("results", "--db", database, "--format", "csv")
    assert code == 0, err
    assert {line.split(",")[6] for line in out.splitlines()[1:]} == set(loss)
    question = ["optimal", "--db", database, "--metric", "cross_entropy", "--budget", "300MiB"]
    code, out, err = kbit(*question, "--format", "json")
    assert code == 0, err
    assert json.loads(out)[0]["bits"] == 1.58
    code, _, err = kbit("report", "--db", database, "--output", tmp_path / "report.html")
    assert code == 0, err
    page = (tmp_path / "report.html").read_text()
    assert "1.58-bit" in page and "2.5-bit" in page and "16.0-bit" not in page


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    table = tmp_path / "odd.csv"
    table.write_text(f"{HEAD}F,[red]a[/red]:smile:,1000,4,int,,<b>t</b> & u,acc,0.5\n")
    assert kbit("import", table, "--db", tmp_path / "t.db")[0] == 0
    _, out, _ = kbit("results", "--db", tmp_path / "t.db")
    for name in ("[red]a[/red]:smile:", "<b>t</b> & u"):
        assert name in out
