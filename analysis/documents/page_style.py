"""A page's style sheet: light or dark as the browser asks, one column on a phone, A4 in print."""

from analysis.figures.style import FONT, GRID, INK, MUTED

NARROW = 760  # px of window width below which panels, and cells of wide tables, are stacked
# Plotly draws in fixed colours: these stand for the light ones where the page is dark.
DARK = {
    INK: "#e3e7ee",
    MUTED: "#98a2b3",
    GRID: "#2c3340",
    "white": "#161b24",
    "#1A1A1A": "#f2f2f2",  # 16 bit
    "#0072B2": "#3d9ddb",  # 4 bit
    "#332288": "#8f83d8",
}

CSS = f"""
:root {{ color-scheme: light dark;
  --page: #f6f7f9; --paper: white; --ink: {INK}; --muted: {MUTED}; --line: {GRID};
  --edge: #cfd4dc; --shade: #eef1f6; }}
@media screen and (prefers-color-scheme: dark) {{
  :root {{ --page: #0e1219; --paper: {DARK["white"]}; --ink: {DARK[INK]}; --muted: {DARK[MUTED]};
    --line: {DARK[GRID]}; --edge: #3b4454; --shade: #1e2531; }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 {FONT}; }}
main {{ max-width: 1240px; margin: 0 auto; padding: 40px 28px 64px; }}
h1 {{ font-size: 30px; line-height: 1.2; letter-spacing: -.01em; margin: 0 0 6px; }}
h2 {{ font-size: 21px; line-height: 1.3; margin: 44px 0 10px; }}
h3 {{ font-size: 16px; line-height: 1.4; margin: 20px 0 4px; }}
h1, h2, h3, p, li, td {{ overflow-wrap: anywhere; }}
.chart h3 {{ margin-top: 0; }}
p, li {{ max-width: 92ch; }}
.chart p {{ max-width: none; }}
p {{ margin: 6px 0 12px; }}
.muted {{ color: var(--muted); }}
.small {{ font-size: 14px; }}
.answers {{ display: grid; gap: 16px; margin: 20px 0 12px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }}
.card {{ background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  padding: 18px 20px; }}
.card .big {{ font-size: 25px; font-weight: 650; line-height: 1.25; margin: 2px 0 4px; }}
.card p {{ margin: 4px 0; }}
.card ul {{ margin: 10px 0 0; padding-left: 20px; }}
.chart {{ background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  padding: 18px 18px 8px; margin: 16px 0; break-inside: avoid; }}
.table {{ background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  margin: 12px 0; position: relative; overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: 13px; line-height: 1.4;
  font-variant-numeric: tabular-nums; }}
th {{ text-align: left; color: var(--muted); font-weight: 600; vertical-align: bottom;
  border-bottom: 1px solid var(--edge); cursor: pointer; }}
th:hover, th:focus-visible {{ color: var(--ink); }}
th[aria-sort]::after {{ content: " ▲"; font-size: 9px; }}
th[aria-sort=descending]::after {{ content: " ▼"; }}
th, td {{ padding: 6px 7px; }}
td {{ border-bottom: 1px solid var(--line); vertical-align: top; }}
tr:last-child td {{ border-bottom: 0; }}
td.number, th.number {{ text-align: right; }}
.room {{ display: inline-block; min-width: 90px; }}
tr.faint td {{ color: var(--muted); }}
.dot {{ display: inline-block; width: .72em; height: .72em; border-radius: 50%;
  margin-right: .5em; border: 1px solid var(--edge); }}
summary {{ cursor: pointer; padding: 8px 0; font-weight: 600; }}
.save {{ font: 12px {FONT}; color: var(--muted); background: none; border: 0; cursor: pointer;
  padding: 4px 8px; text-decoration: underline; }}
.tools {{ text-align: right; }}
tr[hidden] {{ display: none !important; }}
@media (max-width: {NARROW}px) {{
  main {{ padding: 24px 14px 40px; }}
  h1 {{ font-size: 25px; }}
  .chart {{ padding: 14px 6px 4px; }}
  .chart h3, .chart p {{ padding: 0 8px; }}
}}
@media screen and (max-width: {NARROW}px) {{
  .stacked thead {{ display: none; }}
  .stacked tr {{ display: block; padding: 8px 10px; border-bottom: 1px solid var(--edge); }}
  .stacked td, .stacked td.number {{ display: grid; grid-template-columns: 38% 1fr; gap: 8px;
    text-align: left; border: 0; padding: 2px 0; }}
  .stacked td::before {{ content: attr(data-column); color: var(--muted); }}
}}
@media print {{
  @page {{ size: A4; margin: 14mm; }}
  body {{ background: white; font-size: 11pt; }}
  main {{ max-width: none; padding: 0; }}
  table {{ font-size: 7.5pt; }}
  th, td {{ padding: 3px 4px; }}
  .table {{ overflow: visible; border: 0; }}
  .card, .chart {{ border-color: #cfd4dc; }}
  .chart {{ padding: 8px 4px; }}
  .room {{ min-width: 0; }}
  .modebar, .tools {{ display: none !important; }}
  tr {{ break-inside: avoid; }}
  h2, h3 {{ break-after: avoid; }}
}}
"""
