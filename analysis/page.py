"""One offline HTML page: text, tables and plotly.js inline; nothing is loaded from outside."""

import json
from collections.abc import Iterable, Sequence
from html import escape

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from analysis.style import FONT, GRID, INK, MUTED, colour

_TOP = 48  # px above a chart's panels: their names, and the tool bar
NARROW = 760  # px of window width below which panels stand below each other

_CSS = f"""
:root {{ color-scheme: light; }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: #f6f7f9; color: {INK}; font: 16px/1.55 {FONT}; }}
main {{ max-width: 1240px; margin: 0 auto; padding: 40px 28px 64px; }}
h1 {{ font-size: 30px; line-height: 1.2; letter-spacing: -.01em; margin: 0 0 6px; }}
h2 {{ font-size: 21px; line-height: 1.3; margin: 44px 0 10px; }}
h3 {{ font-size: 16px; line-height: 1.4; margin: 20px 0 4px; }}
.chart h3 {{ margin-top: 0; }}
p, li {{ max-width: 92ch; }}
.chart p {{ max-width: none; }}
p {{ margin: 6px 0 12px; }}
.muted {{ color: {MUTED}; }}
.small {{ font-size: 14px; }}
.answers {{ display: grid; gap: 16px; margin: 20px 0 12px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }}
.card {{ background: white; border: 1px solid {GRID}; border-radius: 10px; padding: 18px 20px; }}
.card .big {{ font-size: 25px; font-weight: 650; line-height: 1.25; margin: 2px 0 4px; }}
.card p {{ margin: 4px 0; }}
.card ul {{ margin: 10px 0 0; padding-left: 20px; }}
.chart {{ background: white; border: 1px solid {GRID}; border-radius: 10px; padding: 18px 18px 8px;
  margin: 16px 0; break-inside: avoid; }}
.scroll {{ overflow-x: auto; background: white; border: 1px solid {GRID}; border-radius: 10px;
  margin: 12px 0; }}
table {{ border-collapse: collapse; width: 100%; font-size: 13px; line-height: 1.4;
  font-variant-numeric: tabular-nums; }}
th {{ text-align: left; color: {MUTED}; font-weight: 600; vertical-align: bottom;
  border-bottom: 1px solid #cfd4dc; }}
th, td {{ padding: 6px 8px; }}
td {{ border-bottom: 1px solid {GRID}; vertical-align: top; }}
tr:last-child td {{ border-bottom: 0; }}
td.number, th.number {{ text-align: right; white-space: nowrap; }}
.keep {{ white-space: nowrap; }}
.room {{ display: inline-block; min-width: 150px; }}
tr.faint td {{ color: {MUTED}; }}
.dot {{ display: inline-block; width: .72em; height: .72em; border-radius: 50%;
  margin-right: .5em; }}
summary {{ cursor: pointer; padding: 8px 0; font-weight: 600; }}
@media (max-width: {NARROW}px) {{
  main {{ padding: 24px 14px 40px; }}
  h1 {{ font-size: 25px; }}
  .chart {{ padding: 14px 6px 4px; }}
  .chart h3, .chart p {{ padding: 0 8px; }}
}}
@media print {{
  @page {{ size: A4; margin: 14mm; }}
  body {{ background: white; font-size: 11pt; }}
  main {{ max-width: none; padding: 0; }}
  table {{ font-size: 8pt; }}
  th, td {{ padding: 3px 6px; white-space: normal; }}
  .scroll {{ overflow: visible; border: 0; }}
  .card, .chart {{ border-color: #cfd4dc; }}
  .keep {{ white-space: normal; }}
  .room {{ min-width: 0; }}
  .modebar {{ display: none !important; }}
  tr {{ break-inside: avoid; }}
  h2, h3 {{ break-after: avoid; }}
}}
"""

# Panels stand side by side on a wide page and below each other on a narrow one: the two layouts
# share their traces, so a chart only has to change its layout when the page crosses the limit.
_JS = """
const charts = [];
function draw(id, data, wide, narrow) {
  const chart = {id, data, wide, narrow, isNarrow: null};
  charts.push(chart);
  fit(chart);
}
function fit(chart) {
  const isNarrow = window.innerWidth < LIMIT;
  if (isNarrow === chart.isNarrow) return;
  chart.isNarrow = isNarrow;
  const layout = structuredClone(isNarrow ? chart.narrow : chart.wide);
  Plotly.react(chart.id, chart.data, layout,
    {responsive: true, displaylogo: false,
     modeBarButtons: [['toImage', 'zoom2d', 'pan2d', 'resetScale2d']]});
}
window.addEventListener('resize', () => charts.forEach(fit));
window.addEventListener('beforeprint', () => charts.forEach(c => Plotly.Plots.resize(c.id)));
"""

# The browser itself then refuses every request to anywhere.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)


def page(title: str, body: Iterable[str]) -> str:
    """A complete HTML document around `body` (HTML fragments), plotly.js embedded once."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f"<title>{escape(title)}</title><style>{_CSS}</style>",
        f"<script>{get_plotlyjs()}</script>",
        f"<script>{_JS.replace('LIMIT', str(NARROW))}</script>",
        "</head><body><main>",
        *body,
        "</main></body></html>",
    ]
    return "\n".join(parts)


def chart(name: str, wide: go.Figure, narrow: go.Figure, note: str = "") -> str:
    """A figure in two layouts (same traces); its title becomes a heading, `note` a line below."""
    title = wide.layout.title.text or name
    figures = [json.loads(figure.to_json()) for figure in (wide, narrow)]
    for figure in figures:
        layout = figure["layout"]
        layout.pop("title")
        spare = layout["margin"]["t"] - _TOP  # the heading takes the title's place
        layout["margin"]["t"], layout["height"] = _TOP, layout["height"] - spare
    parts = [name, figures[0]["data"], figures[0]["layout"], figures[1]["layout"]]
    arguments = ", ".join(_script_json(part) for part in parts)
    return (
        f'<section class="chart"><h3>{escape(title)}</h3>'
        + (f'<p class="muted small">{escape(note)}</p>' if note else "")
        + f'<div id="{escape(name)}"></div><script>draw({arguments})</script></section>'
    )


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[str] = ()
) -> str:
    """An HTML table of cells that are HTML already; `numbers` names right-aligned columns.

    In a shorter row the second cell spans the columns it lacks, and the row is fainter.
    """
    right = ["number" if column in numbers else "text" for column in columns]
    head = "".join(f'<th class="{c}">{escape(t)}</th>' for c, t in zip(right, columns, strict=True))
    body = []
    for row in rows:
        spare = len(columns) - len(row)
        styles = [right[0], *right[1 + spare :]] if spare else right
        cells = [f'<td class="{c}">{cell}</td>' for c, cell in zip(styles, row, strict=True)]
        if spare:
            cells[1] = f'<td colspan="{spare + 1}">{row[1]}</td>'
        body.append(f"<tr{' class=faint' if spare else ''}>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def dot(bits: int) -> str:
    """A spot in the precision's colour."""
    return f'<span class="dot" style="background:{colour(int(bits))}"></span>'


def _script_json(part: object) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(part, separators=(",", ":")).replace("</", "<\\/")
