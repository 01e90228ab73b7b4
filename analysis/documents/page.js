// Charts: each block of JSON holds a name, traces, and two layouts, for a wide and for a narrow
// page. They share their traces, so only the layout changes when the page does.
'use strict';
const dark = window.matchMedia('(prefers-color-scheme: dark)');
const PRINTED = {width: 660, height: 860}; // px: what an A4 page holds of a chart at most
const charts = [...document.querySelectorAll('script[type="application/json"]')].map(script => {
  const [id, traces, wide, narrow] = JSON.parse(script.textContent);
  return {id, traces, wide, narrow, look: ''};
});

function recoloured(value, colours) {
  if (typeof value === 'string') return colours[value] ?? value;
  if (Array.isArray(value)) return value.map(item => recoloured(item, colours));
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [key, recoloured(item, colours)]));
}

function draw(chart, printing) {
  const isNarrow = !printing && window.innerWidth < NARROW, isDark = dark.matches && !printing;
  const look = [isNarrow, isDark, printing].join();
  if (look === chart.look) return;
  chart.look = look;
  document.getElementById(chart.id).style.minHeight = '';
  let layout = structuredClone(isNarrow ? chart.narrow : chart.wide), traces = chart.traces;
  if (isDark) [layout, traces] = [recoloured(layout, DARK), recoloured(traces, DARK)];
  if (printing) {
    const height = Math.min(layout.height, PRINTED.height);
    Object.assign(layout, {width: PRINTED.width, height, autosize: false});
    for (const key in layout) if (/^xaxis/.test(key)) layout[key].tickangle = -45;
  }
  Plotly.react(chart.id, structuredClone(traces), layout,
    {responsive: !printing, displaylogo: false,
     modeBarButtons: [['toImage', 'zoom2d', 'pan2d', 'resetScale2d']]});
}

// A chart is drawn when it comes near the window: a page of fifty then opens at once.
const near = new Set();
const watcher = new IntersectionObserver(entries => entries.forEach(entry => {
  if (!entry.isIntersecting) return;
  const chart = charts.find(chart => chart.id === entry.target.id);
  watcher.unobserve(entry.target);
  near.add(chart);
  draw(chart, false);
}), {rootMargin: '1200px'});
for (const chart of charts) watcher.observe(document.getElementById(chart.id));

const redraw = () => near.forEach(chart => draw(chart, false));
window.addEventListener('resize', redraw);
dark.addEventListener('change', redraw);
let folded = []; // paper has nothing to click on: what is folded opens while the page is printed
window.addEventListener('beforeprint', () => {
  folded = [...document.querySelectorAll('details:not([open])')];
  for (const details of folded) details.open = true;
  for (const chart of charts) draw(chart, true);
});
window.addEventListener('afterprint', () => {
  for (const details of folded) details.open = false;
  for (const chart of charts) draw(chart, false);
});

// Tables: a click on a heading sorts by it, once more the other way round.
function sizeOf(text) {
  const scale = {KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40}[text.split(' ')[1]] ?? 1;
  return parseFloat(text.replaceAll(',', '').replace('−', '-')) * scale;
}

function sort(heading) {
  const table = heading.closest('table'), column = heading.cellIndex, body = table.tBodies[0];
  const descending = heading.getAttribute('aria-sort') === 'ascending';
  for (const other of heading.parentNode.cells) other.removeAttribute('aria-sort');
  heading.setAttribute('aria-sort', descending ? 'descending' : 'ascending');
  const rows = [...body.rows].map(row => {
    const text = row.cells[column]?.textContent.trim() ?? '';
    return {row, text, size: sizeOf(text)};
  });
  rows.sort((a, b) => {
    const unknown = Number.isNaN(a.size) - Number.isNaN(b.size);
    const order = Number.isNaN(a.size) || Number.isNaN(b.size)
      ? unknown || a.text.localeCompare(b.text) : a.size - b.size;
    return descending ? -order : order;
  });
  body.append(...rows.map(entry => entry.row));
}

for (const heading of document.querySelectorAll('th')) {
  heading.tabIndex = 0;
  heading.addEventListener('click', () => sort(heading));
  heading.addEventListener('keydown', event => event.key === 'Enter' && sort(heading));
}

// Tables: rows that hold all words of the field above them stay, as "neox 4-bit int". What is said
// of all of them, a family above its table, is a word of each.
function holds(text, asked) {
  return asked.toLowerCase().split(/\s+/).every(word => text.toLowerCase().includes(word));
}

function titleOf(table) {
  let above = table.previousElementSibling;
  while (above && !/^(H[1-6]|SUMMARY)$/.test(above.tagName)) above = above.previousElementSibling;
  return above?.textContent ?? '';
}

for (const field of document.querySelectorAll('input.filter')) {
  const title = titleOf(field.closest('.table'));
  field.addEventListener('input', () => {
    for (const row of field.closest('.table').querySelector('table').tBodies[0].rows) {
      const text = [...row.cells].map(cell => cell.textContent.trim()).join(' ');
      row.hidden = !holds(`${title} ${text}`, field.value);
    }
  });
}

for (const button of document.querySelectorAll('button.save')) {
  button.addEventListener('click', () => {
    const shown = [...button.closest('.table').querySelectorAll('tr')].filter(row => !row.hidden);
    const rows = shown.map(row =>
      [...row.cells].map(cell => '"' + cell.textContent.trim().replaceAll('"', '""') + '"')
        .join(','));
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([rows.join('\r\n')], {type: 'text/csv'}));
    link.download = 'table.csv';
    link.click();
    URL.revokeObjectURL(link.href);
  });
}
