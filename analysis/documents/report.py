"""The report: one offline HTML file with the answer, the figures and every number behind them."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from analysis.claims.four_bit.figures import FIGURES
from analysis.curves.points import curve_points
from analysis.curves.remembering import remembered
from analysis.curves.scaling import scaling_curves
from analysis.documents.markup import drawable, drawn, drawn_scores, escape
from analysis.documents.page import chart, page, table, write_page
from analysis.documents.report_answer import answer_cards
from analysis.documents.report_claims import claim_sections
from analysis.documents.report_costs import cost_tables
from analysis.documents.report_formats import format_tables
from analysis.documents.report_notes import how_to_read, notes
from analysis.documents.report_serving import serving_tables
from analysis.documents.report_tables import (
    axis_table,
    budget_tables,
    experiment_tables,
    outlier_table,
)
from analysis.documents.scaling_figure import scaling_figure
from analysis.figures.strips import optimal_figure
from analysis.noise.bootstrap import ItemScores, no_item_scores

_METRICS = ("zero_shot", "cross_entropy")
# The scaling figures above show these; figures 8 and 9 hold what 3 shows of one family.
_DRAWN_ABOVE = {f"figure-{n}" for n in ("01-total-bits", "02-total-bits", "07-total-bits-all")}
_DRAWN_ABOVE |= {"figure-13-total-bits-loss"}
_DRAWN_ABOVE |= {"figure-03-block-size-4-bit", "figure-03-data-type-4-bit"}


@dataclass(frozen=True, eq=False)
class Run:
    """What a report says beside its answers.

    failures: one row per failed experiment (any columns, shown as they are); facts: about the run,
    shown by name; illustrations: figures by name that are not made of scaling curves (6 and 16).
    """

    failures: pd.DataFrame = field(default_factory=pd.DataFrame)
    facts: Mapping[str, object] = field(default_factory=dict)
    illustrations: Mapping[str, go.Figure] = field(default_factory=dict)


def write_report(
    results: pd.DataFrame,
    path: Path,
    axis: str = "total",
    task: str | None = None,
    scores: ItemScores = no_item_scores,
    run: Run | None = None,
) -> Path:
    """Write the report on `results` (the flat view) to `path` and return it.

    `axis` is what counts as a model's size, `task` restricts it to one task, task set or corpus;
    `scores` gives per-item scores, for paired comparisons. The file is self-contained (about 5 MB,
    plotly.js inside) and requests nothing. Raises ValueError for an unknown axis, or when no
    experiment has a metric that a curve can be drawn of, and OSError as `write_page`.
    """
    with remembered():
        body = _body(results, axis, task, scores, run or Run())
    write_page(Path(path), page("k-bit inference scaling: which precision?", body))
    return Path(path)


def _body(
    results: pd.DataFrame, axis: str, task: str | None, scores: ItemScores, run: Run
) -> list[str]:
    results, scores = drawable(results), drawn_scores(scores)  # whatever is made of it below
    task = None if task is None else drawn(task)
    metrics = metrics_of(results, task)
    if not metrics:
        raise ValueError(
            f"no experiment has an accuracy or a loss{f' on {task!r}' if task else ''}"
        )
    return [
        *answer_cards(results, metrics, axis, task, scores),
        *notes(results, metrics),
        *cost_tables(results, metrics, axis, task, scores),
        *format_tables(results, metrics, axis, task, scores),
        *_figures(results, metrics, axis, task, scores),
        *budget_tables(results, metrics, axis, task, scores),
        *axis_table(results, metrics, task, scores),
        *(claim_sections(results, metrics, axis, scores) if task is None else []),
        *serving_tables(results),
        *outlier_table(results),
        *(_paper_figures(results, axis, run.illustrations) if task is None else []),
        *how_to_read(results, metrics, axis, task),
        *_failures(run.failures),
        *experiment_tables(results),
        *_run(run.facts),
    ]


def metrics_of(results: pd.DataFrame, task: str | None = None) -> list[str]:
    """The metrics that the report can draw curves of."""
    there = []
    for metric in _METRICS:
        with suppress(ValueError):  # none on this task
            there += [metric] if len(curve_points(results, metric, task)) else []
    return there


def _figures(
    results: pd.DataFrame, metrics: list[str], axis: str, task: str | None, scores: ItemScores
) -> list[str]:
    parts = ["<h2>The figures</h2>"]
    strips = optimal_figure(results, metrics, axis, task, scores)
    if strips.data:
        note = (
            "Strong colour: the lead is clear (its 95% interval leaves out 0); pale: not. Thick: "
            "every setting of the family reaches this budget; thin: only some do, so the winner "
            "may owe its place to the absence of rivals. Blank: undetermined."
        )
        parts.append(chart("bit-optimal", strips, strips, note))
    for metric in metrics:
        wide, narrow = (
            scaling_figure(results, metric, axis, task, columns, scores) for columns in (2, 1)
        )
        broken = [c for c in scaling_curves(results, metric, axis, task) if c.broken]
        diverged = "; ".join(f"{m} at {c.setting.label}" for c in broken for m in c.broken)
        note = "Error bars: one standard error. Dashed: other settings than the main one. "
        note += "Dotted: guessing. " if metric == "zero_shot" else "Open triangles: off the scale. "
        note += f"Diverged (crosses): {diverged}." if diverged else ""
        parts.append(chart(f"scaling-{metric}", wide, narrow, note.strip()))
    return parts


def _paper_figures(
    results: pd.DataFrame, axis: str, illustrations: Mapping[str, go.Figure]
) -> list[str]:
    """Every figure of the paper that these results can draw, beside those above."""
    drawn = {name: (figure, figure) for name, figure in illustrations.items()}
    for name, draw in FIGURES.items():
        if name not in _DRAWN_ABOVE:
            with suppress(ValueError):  # these results do not have what it compares
                wide, narrow = (draw(results, axis=axis, columns=n) for n in (2, 1))
                drawn[name] = (wide, narrow)
    parts = [
        chart(name, *drawn[name], f"As figure {name.split('-')[1].lstrip('0')} of the paper.")
        for name in sorted(drawn)
    ]
    return ["<h2>The paper's other figures</h2>", *parts] if parts else []


def _failures(failures: pd.DataFrame) -> list[str]:
    if failures.empty:
        return ["<h2>Failures</h2><p>None: every experiment that was tried has its results.</p>"]
    rows = [[escape(_plain(value)) for value in row] for row in failures.itertuples(index=False)]
    return [
        f"<h2>Failures</h2><p>Experiments without results: {len(failures)}.</p>",
        table([str(column) for column in failures.columns], rows),
    ]


def _run(settings: Mapping[str, object]) -> list[str]:
    if not settings:
        return []
    rows = [[escape(str(name)), escape(_plain(value))] for name, value in settings.items()]
    return ["<h2>The run</h2>", table(["Setting", "Value"], rows)]


def _plain(value: object) -> str:
    return "" if value is None or value is pd.NA or value != value else str(value)
