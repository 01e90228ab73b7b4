"""`kbit import`, and what is asked of imported numbers: figures, budgets, memory."""

import json
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from choreographer.browsers.chromium import Chromium

from kbit.figures import write_figures
from tests.analysis.rich import rich_results
from tests.kbit.command import kbit


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported")
    rows = rich_results()
    rows.to_csv(folder / "published.csv", index=False)
    path = folder / "p.db"
    code, out, err = kbit("import", folder / "published.csv", "--db", path, "--source", "table")
    assert code == 0, err
    assert f"{len(rows)} of {len(rows)} rows are new" in out
    return path


def test_a_bad_file_imports_nothing_and_says_why(tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("family,model,n_params,bits,task,metric,value\nf,m,10,16,t,acc,seven\n")
    code, _, err = kbit("import", bad, "--db", tmp_path / "new.db")
    assert code == 2 and "row 2: value 'seven' is not a number" in err
    assert len(err.splitlines()) == 1 and not (tmp_path / "new.db").exists()
    code, _, err = kbit("import", bad, "--set", "colour", "--db", tmp_path / "new.db")
    assert code == 2 and "COLUMN=VALUE" in err


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda path: path.mkdir(), "is a folder; give a CSV, or the JSON that lm-eval writes"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "not a text file"),
        (lambda path: path.symlink_to(path), "cannot be read: Too many levels of symbolic links"),
        (lambda path: None, "no such file"),
    ],
    ids=["folder", "bytes", "loop", "missing"],
)
def test_what_is_no_file_of_text_is_said_plainly(made, said: str, tmp_path: Path) -> None:
    given = tmp_path / "given.csv"
    made(given)
    code, out, err = kbit("import", given, "--db", tmp_path / "new.db")
    assert code == 2 and not out and err == f"error: {given}: {said}\n"
    assert not (tmp_path / "new.db").exists()


def test_what_all_rows_lack_is_said_once(tmp_path: Path) -> None:
    metrics = {f"acc{i},none": 0.5 for i in range(5)}
    (tmp_path / "r.json").write_text(json.dumps({"results": {"piqa": metrics}, "model_name": "m"}))
    code, _, err = kbit("import", tmp_path / "r.json", "--db", tmp_path / "new.db")
    assert code == 2 and err.count("family is missing") == 1 and "and 4 more: family" in err
    table = tmp_path / "t.csv"
    head = "family,model,n_params,bits,task,metric,value\n"
    table.write_text(head + "f,m,10,16,t,acc,no\nf,m,10,16,t,acc,never\nf,m,,16,t,acc,1\n")
    code, _, err = kbit("import", table, "--db", tmp_path / "new.db")
    for said in ("row 2: value 'no'", "row 3: value 'never'", "row 4: n_params is missing"):
        assert said in err


def test_figures_are_written_singly(database: Path, tmp_path: Path) -> None:
    options = ["--db", database, "--output", tmp_path, "--only", "figure-0"]
    code, out, err = kbit("figures", *options)
    assert code == 0, err
    names = {path.name for path in tmp_path.iterdir()}
    assert {"figure-02-total-bits.html", "figure-04-proxy-outliers.html"} <= names
    assert "left out figure-05-one-shot: no experiment" in out
    page = (tmp_path / "figure-02-total-bits.html").read_text()
    assert "16-bit" in page and 'src="http' not in page
    assert kbit("figures", "--db", database, "--only", "figure-99")[0] == 2


@pytest.mark.skipif(
    not Chromium.find_browser(skip_local=False), reason="no Chrome or Chromium on this machine"
)
@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<svg")])
def test_pictures(database: Path, tmp_path: Path, suffix: str, start: bytes) -> None:
    options = ["--db", database, "--only", "figure-13", "--format", suffix]
    code, _, err = kbit("figures", *options, "--output", tmp_path)
    assert code == 0, err
    picture = (tmp_path / f"figure-13-total-bits-loss.{suffix}").read_bytes()
    assert picture.startswith(start) and len(picture) > 10_000


def test_a_picture_is_as_high_as_its_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """plotly's own default is 500 pixels for all of them, whatever their layouts say."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("plotly.io.write_images", lambda *_, **options: asked.append(options))
    tall, plain = go.Figure(layout={"height": 900}), go.Figure()
    draw = {"tall": lambda: tall, "plain": lambda: plain}
    assert write_figures(draw, tmp_path, "svg") == 2
    assert asked[0]["height"] == [900, None]


def test_a_folder_that_cannot_be_made_is_one_line(database: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    options = ["--db", database, "--only", "figure-13", "--output", tmp_path / "file"]
    code, _, err = kbit("figures", *options)
    assert code == 2 and len(err.splitlines()) == 1 and "is a file" in err


def test_illustrations_say_what_they_lack(database: Path, tmp_path: Path) -> None:
    out = kbit("figures", "--db", database, "--output", tmp_path, "--only", "figure-16")[1]
    assert "left out figure-16-speed: no latency" in out and "kbit bench latency" in out
    out = kbit("figures", "--db", database, "--output", tmp_path, "--only", "figure-06")[1]
    assert "left out figure-06-codes-on-weights: no model.safetensors" in out


def test_pictures_without_a_renderer_are_one_line(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Chromium, "find_browser", lambda **_: None)
    code, _, err = kbit("figures", "--db", database, "--format", "png", "--output", tmp_path)
    assert code == 2 and len(err.splitlines()) == 1 and "Chrome or Chromium browser" in err


def test_questions_the_other_way_round(database: Path) -> None:
    code, out, _ = kbit("optimal", "--db", database, "--reach", 0.5, "--format", "json")
    assert code == 0 and all(row["reached"] for row in json.loads(out))
    code, out, _ = kbit("optimal", "--db", database, "--pareto", "--format", "json")
    values = [row["value"] for row in json.loads(out)]
    assert code == 0 and values == sorted(values)
    code, out, _ = kbit("optimal", "--db", database, "--memory", "1MiB", "--format", "json")
    assert code == 0 and all(row["needed"] <= 8 * 2**20 for row in json.loads(out))
    out = kbit("optimal", "--db", database, "--memory", "1MiB", "--context", 64)[1]
    assert "left out, no config.json" in out


def test_how_sure_an_answer_is(database: Path) -> None:
    code, out, _ = kbit("optimal", "--db", database, "--budget", "600KiB")
    assert code == 0 and "Probability of being optimal" in out and "90% intervals" in out
    code, out, _ = kbit("optimal", "--db", database, "--metric", "cross_entropy")
    assert code == 0 and "almost universally optimal" in out
