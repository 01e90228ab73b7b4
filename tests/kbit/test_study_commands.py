"""`kbit outliers`, `kbit bench latency --db` and `kbit study`: measured, stored, written up."""

import gzip
import json
from pathlib import Path

import pytest

from analysis.answers.latency import LATENCY, ROOFLINE
from analysis.findings.outliers import PAIRS, TASK
from kbit.memory import _cache_bits
from orchestrator.paths import ROOT
from orchestrator.store.reading import read_results
from orchestrator.store.store import Store
from tests.kbit.command import kbit

MODEL = "sotu-neox-32x2"
STUDY = f"""
models: [{MODEL}, sotu-neox-32x4, sotu-neox-64x2]
grids:
  - {{bits: [16, 4, 3], block_size: 64}}
tasks: []
corpora:
  - {{name: sotu, max_tokens: 600}}
"""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.yaml").write_text(STUDY)
    code, out, err = kbit("sweep", folder / "study.yaml", "--db", folder / "s.db", "--executor",
                          "local")  # fmt: skip
    assert code == 0, out + err
    return folder / "s.db"


def test_outliers_are_stored_with_the_16_bit_experiment(database: Path) -> None:
    asked = ["outliers", MODEL, "--max-tokens", 512, "--db", database, "--format", "json"]
    code, out, err = kbit(*asked)
    assert code == 0, err
    shown = {row["pair"]: row for row in json.loads(out)}
    assert list(shown) == list(PAIRS.values())
    rows = read_results(Store.open(f"sqlite:///{database}"))
    rows = rows[rows["task"] == TASK]
    assert set(rows["model"]) == {MODEL} and set(rows["bits"]) == {16} and len(rows) == 9
    assert set(rows["total_bits"]) == {2504704}  # of the sweep's own experiment
    stored = rows.set_index("metric")["value"]
    assert stored["spearman_ffn1"] == pytest.approx(shown[PAIRS["FFN1"]]["spearman"], rel=1e-6)
    assert kbit(*asked)[0] == 0  # again: changes nothing
    assert len(read_results(Store.open(f"sqlite:///{database}"))) == 9 * 3 + 9 + 9


def test_latency_is_stored_and_answers_the_question_of_memory(
    database: Path, tmp_path: Path
) -> None:
    options = ["--steps", 2, "--batch", 1, "--bits", 16, 4, "--db", database]
    code, _, err = kbit("bench", "latency", MODEL, *options)
    assert code == 0, err
    memory = ["--memory", "1MiB", "--metric", "cross_entropy", "--db", database]
    code, out, err = kbit("optimal", *memory, "--format", "json")
    timed = [row for row in json.loads(out) if row[LATENCY] is not None]
    assert code == 0 and {row["bits"] for row in timed} == {16, 4}
    assert {row["model"] for row in timed} == {MODEL} and all(row[LATENCY] > 0 for row in timed)
    assert LATENCY in kbit("optimal", *memory)[1]
    assert LATENCY not in kbit("optimal", *memory, "--batch", 2)[1]
    rows = read_results(Store.open(f"sqlite:///{database}"))
    assert (rows["metric"] == ROOFLINE).sum() == 2
    out = kbit("figures", "--db", database, "--output", tmp_path, "--only", "figure-16")[1]
    assert (tmp_path / "figure-16-speed.html").is_file(), out
    code, _, err = kbit("bench", "latency", "sotu-neox", "--db", database)
    assert code == 2 and "is a family" in err


def test_a_study_is_written_from_a_database_and_again_from_its_files(
    database: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "small"
    options = ["--title", "A small study", "--text-only"]
    code, out, err = kbit("study", folder, "--db", database, *options)
    assert code == 0, err
    document = folder.with_suffix(".md")
    assert str(document) in out
    text = document.read_text()
    assert text.startswith("# A small study\n") and "9 experiments: 3 models at 3" in text
    document.unlink()
    assert kbit("study", folder, *options)[0] == 0 and document.read_text() == text


def test_a_database_alone_never_replaces_the_committed_study(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KBIT_RESULTS", str(tmp_path))
    code, out, err = kbit("study", "--db", database, "--text-only")
    assert code == 0, err
    assert str(tmp_path / "embedded-study.md") in out and str(ROOT / "docs") not in out


def test_mistakes_are_one_line(database: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (["study", tmp_path / "none", "--text-only"], "give --db"),
        (["study", tmp_path / "x", "--db", database, "--db", database, "--text-only"], "the same"),
        (["outliers", "nobody"], "models.yaml: no family or model 'nobody'"),
        (["analyze", "sotu-nex"], "did you mean sotu-neox"),
        (["outliers", MODEL, "--corpus", tmp_path / "no.txt"], "no.txt"),
    ):
        code, _, err = kbit(*arguments)
        assert code == 2 and words in err and len(err.splitlines()) == 1, err
    assert not (tmp_path / "x").exists()


def test_damaged_studies_are_one_line(database: Path, tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    assert kbit("study", folder, "--db", database, "--text-only")[0] == 0
    rows, items = ((folder / name).read_bytes() for name in ("results.csv.gz", "items.npz"))
    for name, content, words in (
        ("results.csv.gz", b"no gzip at all", "results.csv.gz cannot be read"),
        ("results.csv.gz", rows[: len(rows) // 2], "results.csv.gz cannot be read"),
        ("results.csv.gz", gzip.compress(b"a,b\n1,2\n"), "lacks the column(s) source"),
        ("items.npz", items[: len(items) // 2], "items.npz cannot be read"),
    ):
        (folder / "results.csv.gz").write_bytes(rows)
        (folder / "items.npz").write_bytes(items)
        (folder / name).write_bytes(content)
        code, _, err = kbit("study", folder, "--text-only")
        assert code == 2 and words in err and len(err.splitlines()) == 1, err
    code, _, err = kbit("study", folder / "items.npz", "--text-only")
    assert code == 2 and "is a file" in err and len(err.splitlines()) == 1, err


def test_a_config_that_is_no_mapping_sizes_no_context(tmp_path: Path) -> None:
    for config in ("[1, 2]", '{"n_layer": 2, "n_head": "two", "n_embd": 8}', "not JSON"):
        (tmp_path / "config.json").write_text(config)
        assert _cache_bits(str(tmp_path)) is None


def test_the_study_s_sweep_is_large_enough() -> None:
    code, out, err = kbit("sweep", ROOT / "sweeps" / "embedded.yaml", "--dry-run")
    assert code == 0 and "3672" in out.replace(",", ""), out + err
