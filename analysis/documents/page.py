"""One offline HTML page: text, tables and plotly.js inline; nothing is loaded from outside."""

import base64
import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from analysis.documents.markup import escape
from analysis.documents.page_style import CSS, DARK, NARROW
from analysis.figures.style import colour

_TOP = 48  # px above a chart's panels: their names, and the tool bar
_MANY = 8  # rows from which on a table has a field to filter them
_FILTER = (
    '<input class="filter" type="search" placeholder="family, setting, ..." aria-label="rows">'
)
_STACKED = 4  # a table of more columns is a list of rows on a narrow page
# A "<" that does not begin one of the tags that cells may have.
_FOREIGN_TAG = re.compile(
    r'<(?!(?:/?b|br|/span|span class="[a-z]+"(?: style="background:#[0-9A-Fa-f]{6}")?)>)'
)


def page(title: str, body: Iterable[str]) -> str:
    """A complete HTML document around `body` (HTML fragments), plotly.js embedded once.

    The browser refuses every request to anywhere, and every script but the two of this page, which
    its policy names by their hashes.
    """
    constants = f"const NARROW = {NARROW}, DARK = {json.dumps(DARK)};\n"
    code = constants + Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
    scripts = [get_plotlyjs(), code]
    hashes = " ".join(f"'{_hash(script)}'" for script in scripts)
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}; img-src data: blob:">',
        f"<title>{escape(title)}</title><style>{CSS}</style>",
        "</head><body><main>",
        *body,
        "</main>",
        *(f"<script>{script}</script>" for script in scripts),
        "</body></html>",
    ]
    return "\n".join(parts)


def write_page(path: Path, text: str) -> None:
    """Write a page beside its place and rename it, so that a reader never sees half of it.

    Raises OSError where that is not possible; nothing is left then.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, not a file", str(path))
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as file:
        partial = Path(file.name)
    try:
        partial.write_text(text, encoding="utf-8")
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _hash(script: str) -> str:
    """As a content security policy names a script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def chart(name: str, wide: go.Figure, narrow: go.Figure, note: str = "") -> str:
    """A figure in two layouts (same traces); its title becomes a heading, `note` a line below.

    Text in it must be `markup.drawable`: plotly reads tags.
    """
    title = wide.layout.title.text or name
    figures = [json.loads(figure.to_json()) for figure in (wide, narrow)]
    for figure in figures:
        layout = figure["layout"]
        layout.pop("title")
        spare = layout["margin"]["t"] - _TOP  # the heading takes the title's place
        layout["margin"]["t"], layout["height"] = _TOP, layout["height"] - spare
    parts = [name, figures[0]["data"], figures[0]["layout"], figures[1]["layout"]]
    height = figures[0]["layout"]["height"]  # until it is drawn
    return (
        f'<section class="chart"><h3>{escape(title)}</h3>'
        + (f'<p class="muted small">{escape(note)}</p>' if note else "")
        + f'<div id="{escape(name)}" style="min-height:{height}px"></div>'
        + f'<script type="application/json">{_script_json(parts)}</script></section>'
    )


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[str] = ()
) -> str:
    """An HTML table; `numbers` names right-aligned columns.

    Cells are text with <b>, <br> and spans of a class; any other tag is shown as text. In a shorter
    row the second cell spans the columns it lacks, and the row is fainter. A click on a heading
    sorts; words in the field above a longer table leave the rows that hold all of them; what is
    shown can be saved as CSV.
    """
    right = ["number" if column in numbers else "text" for column in columns]
    head = "".join(f'<th class="{c}">{escape(t)}</th>' for c, t in zip(right, columns, strict=True))
    body = []
    for row in rows:
        spare = len(columns) - len(row)
        styles = [right[0], *right[1 + spare :]] if spare else right
        names = [columns[0], *columns[1 + spare :]]
        texts = [_FOREIGN_TAG.sub("&lt;", cell) for cell in row]
        cells = [
            f'<td class="{style}" data-column="{escape(name)}">{cell}</td>'
            for style, name, cell in zip(styles, names, texts, strict=True)
        ]
        if spare:
            place = f'colspan="{spare + 1}" data-column="{escape(columns[1])}"'
            cells[1] = f"<td {place}>{texts[1]}</td>"
        body.append(f"<tr{' class=faint' if spare else ''}>{''.join(cells)}</tr>")
    stacked = ' class="stacked"' if len(columns) > _STACKED else ""
    return (
        f'<div class="table"><div class="tools">{_FILTER if len(body) >= _MANY else ""}'
        f'<button class="save">CSV</button></div>'
        f"<table{stacked}><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def dot(bits: float) -> str:
    """A spot in the precision's colour."""
    return f'<span class="dot" style="background:{colour(bits)}"></span>'


def _script_json(part: object) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(part, separators=(",", ":")).replace("<", "\\u003c")
