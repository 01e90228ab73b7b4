import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest

from analysis.documents import page as page_module
from analysis.documents.markup import drawable
from analysis.documents.page import chart, page, table, write_page
from analysis.documents.report import Run, write_report
from tests.analysis.conftest import make_results

MARKUP = "<img src=x onerror=alert(1)>&amp;</script><script>alert(2)</script><a href='x'>y</a>"


class Elements(HTMLParser):
    """The elements of a page that text of others could have made, and inline handlers anywhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.scripts: list[str] = []
        self._script: dict[str, str | None] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("img", "a", "iframe") or any(name.startswith("on") for name, _ in attrs):
            self.found.append(self.get_starttag_text() or "")
        self._script = dict(attrs) if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._script is not None and "type" not in self._script:
            self.scripts.append(data)
        self._script = None


def test_text_of_others_never_becomes_an_element(tmp_path: Path) -> None:
    results = make_results(bits=(16, 4, 3))
    columns = ["family", "model", "data_type", "method", "task"]
    for column in columns:
        rows = results["task"].eq("sotu") if column == "task" else results["bits"] < 16
        results.loc[rows, column] = results.loc[rows, column] + MARKUP
    run = Run(pd.DataFrame([{"error": MARKUP}]), {"database": MARKUP})
    path = write_report(results, tmp_path / "r.html", run=run)
    text = path.read_text(encoding="utf-8")
    elements = Elements(text)
    assert text.count("</script>") == text.count("<script")
    assert not elements.found
    assert len(elements.scripts) == 2  # plotly.js and ours; figures are data


def test_the_policy_names_the_scripts_that_may_run() -> None:
    text = page("A page", ["<p>text</p>"])
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    allowed = re.search(r"script-src ([^;]*);", policy[1])
    assert allowed is not None and "unsafe" not in allowed[1]
    digests = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in Elements(text).scripts
    ]
    assert allowed[1].split() == [f"'sha256-{digest}'" for digest in digests]


def test_charts_show_text_as_it_is() -> None:
    rows = drawable(pd.DataFrame({"family": [MARKUP, "plain"], "value": [1.0, 2.0]}))
    assert rows["family"].tolist()[1] == "plain"
    assert "<" not in rows["family"][0] and rows["family"][0].startswith("&lt;img")
    layout = {"title": {"text": rows["family"][0]}, "margin": {"t": 70}, "height": 400}
    html = chart("name", go.Figure(layout=layout), go.Figure(layout=layout))
    heading = html[html.index("<h3>") + 4 : html.index("</h3>")]
    assert "<" not in heading and heading.startswith("&lt;img src=x") and "&amp;amp;" in heading


def test_cells_hold_text_and_a_few_tags() -> None:
    cell = '<b>1.5</b> <span class="dot" style="background:#0072B2"></span>' + MARKUP
    html = table(["a", "b"], [[cell, "2"]])
    assert '<b>1.5</b> <span class="dot" style="background:#0072B2"></span>&lt;img' in html
    assert "<script" not in html and "<a " not in html


def test_a_wide_table_is_stacked_on_a_narrow_page() -> None:
    wide = table(list("abcdef"), [["1"] * 6, ["1", "2", "3"]])
    assert 'class="stacked"' in wide and wide.count('data-column="b"') == 2
    assert 'class="stacked"' not in table(["a", "b"], [["1", "2"]])


@pytest.mark.parametrize("place", ["", "file/inside.html"])
def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError):
        write_page(tmp_path / place, "text")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_longer_tables_have_a_filter() -> None:
    short, long = (table(["family", "value"], [["a", "1"]] * n) for n in (3, 20))
    assert 'class="filter"' in long and 'class="filter"' not in short


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here to run the page's script")
def test_rows_that_hold_all_words_stay() -> None:
    script = Path(page_module.__file__).with_suffix(".js").read_text()
    holds = re.search(r"function holds\(.*?\n}\n", script, re.DOTALL)
    assert holds is not None
    row = "sotu-neox 4-bit int B64 0.31"
    cases = {"": True, "neox": True, "INT  neox ": True, "8-bit": False, "neox float": False}
    asked = f"{holds[0]}console.log(JSON.stringify({list(cases)}.map(a => holds('{row}', a))))"
    run = subprocess.run(["node", "-e", asked], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == list(cases.values())
