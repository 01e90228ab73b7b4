"""The report in a browser: it fits screens of any width and paper, and follows the dark mode."""

import asyncio
import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest
from choreographer import Browser
from choreographer.browsers.chromium import Chromium

from analysis.documents.report import Run, write_report
from tests.analysis.conftest import make_results

pytestmark = pytest.mark.skipif(
    not Chromium.find_browser(skip_local=False), reason="no Chrome or Chromium on this machine"
)
PAPER = 688  # px: A4 less its margins
# What sticks out of the page, or of the box that it scrolls in, by more than a pixel of rounding.
OVERFLOW = """
[...document.querySelectorAll('main *')].filter(e => e.getClientRects().length
    && !e.closest('svg') && e.getBoundingClientRect().right > document.body.clientWidth + 1)
  .map(e => e.tagName + '.' + e.className).concat(
    [...document.querySelectorAll('.table')].filter(e => e.scrollWidth > e.clientWidth + 1)
    .map(e => 'scrolls: ' + e.querySelector('thead').innerText)).join('; ')
"""
BACKGROUND = "getComputedStyle(document.body).backgroundColor"


async def _look(page: Path, media: list[dict], asked: str) -> list[str]:
    """The answers to `asked`, one for each way of looking at the page."""
    answers = []
    async with Browser(headless=True) as browser:
        tab = await browser.create_tab("")
        session = await tab.create_session()
        await session.send_command("Page.enable")
        for way in media:
            size = {"height": 900, "deviceScaleFactor": 1, "mobile": False, "width": way["width"]}
            await session.send_command("Emulation.setDeviceMetricsOverride", params=size)
            features = [{"name": "prefers-color-scheme", "value": way.get("scheme", "light")}]
            shown = {"media": way.get("media", "screen"), "features": features}
            await session.send_command("Emulation.setEmulatedMedia", params=shown)
            await session.send_command("Page.navigate", params={"url": page.as_uri()})
            for _ in range(200):
                told = await _ask(session, "document.readyState + ' ' + location.href")
                if told == f"complete {page.as_uri()}":
                    break
                await asyncio.sleep(0.1)
            answers.append(await _ask(session, asked))
    return answers


async def _ask(session, expression: str) -> str:
    asked = {"expression": expression, "awaitPromise": True}
    reply = await session.send_command("Runtime.evaluate", params=asked)
    return str(reply["result"]["result"].get("value"))


def look(page: Path, media: list[dict], asked: str) -> list[str]:
    return asyncio.run(asyncio.wait_for(_look(page, media, asked), 100))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    failures = pd.DataFrame([{"model": "sotu-opt-256x8", "error": "no weights: " + "x" * 200}])
    run = Run(failures, {"database": "d" * 120})
    return write_report(make_results(), tmp_path_factory.mktemp("page") / "r.html", run=run)


def test_nothing_sticks_out_on_screens_and_paper(page: Path) -> None:
    media = [{"width": width} for width in (1280, 1000, 390)]
    media.append({"width": PAPER, "media": "print"})
    found = look(page, media, OVERFLOW)
    assert dict(zip(map(str, media), found, strict=True)) == dict.fromkeys(map(str, media), "")
    wide = page.with_name("wide.html")
    box = '<div class="wide" style="width: 1010px">box</div></main>'
    wide.write_text(page.read_text().replace("</main>", box))
    assert look(wide, media[:2], OVERFLOW) == ["", "DIV.wide"]


def test_it_is_dark_where_the_browser_wishes(page: Path) -> None:
    media = [{"width": 1000, "scheme": scheme} for scheme in ("light", "dark")]
    light, dark = (
        [int(part) for part in colour[4:-1].split(",")] for colour in look(page, media, BACKGROUND)
    )
    assert min(light) > 200 and max(dark) < 60


# Clicks the heading "Total size" of a table of experiments twice, then its download.
SORTED = """
(async () => {
  const heading = [...document.querySelectorAll('th')].find(e => e.textContent === 'Total size');
  const table = heading.closest('.table');
  const column = () => [...table.querySelector('tbody').rows].map(
    row => sizeOf(row.cells[heading.cellIndex].textContent.trim()));
  heading.click(); const up = column();
  heading.click(); const down = column();
  let saved = null;
  URL.createObjectURL = blob => { saved = blob.text(); return 'about:blank'; };
  table.querySelector('.save').click();
  return JSON.stringify({up, down, saved: await saved});
})()
"""


# Rows that are left by each of the words, in every table that has a field.
FILTERED = """
JSON.stringify([...document.querySelectorAll('input.filter')].map(field => {
  const rows = [...field.closest('.table').querySelector('table').tBodies[0].rows];
  const title = titleOf(field.closest('.table'));
  const left = word => {
    field.value = word;
    field.dispatchEvent(new Event('input'));
    return rows.filter(row => !row.hidden).length;
  };
  const holding = rows.filter(row => row.textContent.includes('4-bit')).length;
  return {title, all: rows.length, holding, family: left(title.split(/[,:]/)[0]),
          setting: left('4-bit'), nothing: left('no such words'), none: left('')};
}))
"""


def test_rows_are_filtered_by_family_and_setting(page: Path) -> None:
    tables = json.loads(look(page, [{"width": 1280}], FILTERED)[0])
    assert sum(table["title"] != "" for table in tables) > 2
    for table in tables:
        assert table["family"] == table["none"] == table["all"] and table["nothing"] == 0, table
        assert table["setting"] == table["holding"], table
    assert any(0 < table["setting"] < table["all"] for table in tables)


def test_tables_are_sorted_by_a_click_and_saved_as_they_stand(page: Path) -> None:
    found = json.loads(look(page, [{"width": 1280}], SORTED)[0])
    assert found["up"] == sorted(found["up"]) and len(set(found["up"])) > 10
    assert found["down"] == found["up"][::-1] or found["down"] == sorted(found["up"], reverse=True)
    head, first, *rest = csv.reader(io.StringIO(found["saved"]))
    assert "Total size" in head and len(rest) + 1 == len(found["down"])
    largest = first[head.index("Total size")]
    assert largest.endswith("iB") and float(largest.split()[0]) > 0
