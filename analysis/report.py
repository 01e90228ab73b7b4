"""The report: one offline HTML file with the answer, the figures and every number behind them."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

import pandas as pd
import plotly.graph_objects as go

from analysis.bootstrap import ItemScores, no_item_scores
from analysis.curves import remembered_curves, scaling_curves
from analysis.figures import scaling_figure
from analysis.markup import drawable, escape
from analysis.metrics import curve_points
from analysis.page import chart, page, table, write_page
from analysis.paper_figures import FIGURES
from analysis.report_answer import answer_cards
from analysis.report_claims import claim_sections
from analysis.report_tables import axis_table, budget_tables, experiment_tables, outlier_table
from analysis.strips import optimal_figure
from analysis.wording import AXIS_NAMES, METRIC_NAMES
from evaluation.task_sets import TASK_SETS

_METRICS = ("zero_shot", "cross_entropy")
# The scaling figures above show these; figures 8 and 9 hold what 3 shows of one family.
_DRAWN_ABOVE = {f"figure-{n}" for n in ("01-total-bits", "02-total-bits", "07-total-bits-all")}
_DRAWN_ABOVE |= {"figure-13-total-bits-loss"}
_DRAWN_ABOVE |= {"figure-03-block-size-4-bit", "figure-03-data-type-4-bit"}


def write_report(
    results: pd.DataFrame,
    failures: pd.DataFrame,
    path: Path,
    settings: Mapping[str, object],
    axis: str = "total",
    scores: ItemScores = no_item_scores,
    illustrations: Mapping[str, go.Figure] = MappingProxyType({}),
) -> Path:
    """Write the report on `results` (the flat view) to `path` and return it.

    `failures` holds one row per failed experiment (any columns, shown as they are; may be empty);
    `settings` are facts about the run, shown by name; `axis` is what counts as a model's size;
    `scores` gives per-item scores, for paired comparisons; `illustrations` are figures by name that
    are not made of scaling curves (6 and 16). The file is self-contained (about 5 MB,
    plotly.js inside) and requests nothing. Raises ValueError for an unknown axis, or when no
    experiment has a metric that a curve can be drawn of, and OSError as `write_page`.
    """
    with remembered_curves():
        body = _body(results, failures, settings, axis, scores, illustrations)
    write_page(Path(path), page("k-bit inference scaling: which precision?", body))
    return Path(path)


def _body(
    results: pd.DataFrame,
    failures: pd.DataFrame,
    settings: Mapping[str, object],
    axis: str,
    scores: ItemScores,
    illustrations: Mapping[str, go.Figure],
) -> list[str]:
    results = drawable(results)  # whatever is made of it below
    metrics = [metric for metric in _METRICS if len(curve_points(results, metric))]
    if not metrics:
        raise ValueError("no experiment has a cross-entropy or all tasks of a zero-shot set yet")
    return [
        *answer_cards(results, metrics, axis),
        *_figures(results, metrics, axis),
        *budget_tables(results, metrics, axis, scores),
        *axis_table(results, metrics),
        *claim_sections(results, metrics, axis, scores),
        *outlier_table(results),
        *_paper_figures(results, axis, illustrations),
        *_how_to_read(results, metrics, axis),
        *_failures(failures),
        *experiment_tables(results),
        *_run(settings),
    ]


def _figures(results: pd.DataFrame, metrics: list[str], axis: str) -> list[str]:
    strips = optimal_figure(results, metrics, axis)
    parts = [
        "<h2>The figures</h2>",
        chart(
            "bit-optimal",
            strips,
            strips,
            "Strong colour: the lead exceeds two standard errors; pale: it does not. Thick: every "
            "setting of the family reaches this budget; thin: only some do, so the winner may owe "
            "its place to the absence of rivals. Blank: undetermined.",
        ),
    ]
    for metric in metrics:
        wide, narrow = (scaling_figure(results, metric, axis, columns=n) for n in (2, 1))
        broken = [c for c in scaling_curves(results, metric, axis) if c.broken]
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


def _how_to_read(results: pd.DataFrame, metrics: list[str], axis: str) -> list[str]:
    scored = []
    for metric in metrics:
        points = curve_points(results, metric)
        low, high = int(points["n_items"].min()), int(points["n_items"].max())
        count = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        for name in points["task"].unique():
            in_set = TASK_SETS.get(name, {}) if metric == "zero_shot" else {}
            tasks = ", ".join(f"{task} ({accuracy})" for task, accuracy in in_set.items())
            what = f"the mean over {tasks}; {count} items in all" if tasks else f"{count} windows"
            scored.append(
                f"<li>{METRIC_NAMES[metric].capitalize()} on {escape(name)}: {what}.</li>"
            )
    return [
        "<h2>How to read this</h2><ul>",
        "<li>A point is one experiment: a model at a precision. Its size is "
        f"{AXIS_NAMES[axis]}.</li>",
        "<li>A curve joins the models of one family at one precision setting, linearly in log "
        "size, never beyond its ends. A diverged model (NaN or infinite loss) interrupts it.</li>",
        "<li>Bit-optimal at a budget is the setting whose curve is best there; 16-bit competes as "
        "well. A budget usually falls between two real models, both named in the table.</li>",
        "<li>“Undetermined” means that fewer than two curves have a value at the "
        "budget, so there is nothing to compare.</li>",
        "<li>Near the ends of the range few settings have models of the right size, and the "
        "winner may only lack rivals: see “Compared”, and whether a smaller experiment "
        "is marked better than the curve.</li>",
        "<li>± is one standard error. A score's error comes from the spread over its items. Where "
        "per-item scores are stored, a lead's error and all intervals come from a bootstrap that "
        "draws the same items for every precision, so that common luck cancels; elsewhere errors "
        "are combined as if independent, which overstates that of a lead.</li>",
        "<li>Probable winners: the probability that a precision is truly best, shrunk where "
        "candidates differ by less than their noise, so that 80% means right in 80% of such cases. "
        "In brackets: the most frequent winner when the family's sizes are resampled too.</li>",
        *scored,
        "</ul>",
    ]


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
