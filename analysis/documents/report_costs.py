"""For families that no comparison decides: what each setting costs a model, beside 16 bit."""

import pandas as pd

from analysis.answers.costs import setting_costs
from analysis.curves.budget import format_bits
from analysis.curves.names import format_value, in_unit, name_metric
from analysis.documents.markup import escape
from analysis.documents.page import dot, table
from analysis.findings.finding import find
from analysis.noise.bootstrap import ItemScores, no_item_scores


def cost_tables(
    results: pd.DataFrame,
    metrics: list[str],
    axis: str,
    task: str | None = None,
    scores: ItemScores = no_item_scores,
) -> list[str]:
    """HTML: a table per metric of the families that have no winner anywhere; [] if all have."""
    parts = []
    for metric in metrics:
        finding = find(results, metric, axis, task, scores)
        costs = setting_costs(results, metric, task, scores, list(finding.undecided))
        if len(costs):
            name = name_metric(metric, finding.tasks)
            parts.append(f"<h3>{escape(name[0].upper() + name[1:])}</h3>")
            parts.append(_table(costs, metric))
    if not parts:
        return []
    return [
        "<h2>What each setting costs</h2>",
        "<p>Where precisions cannot be compared at equal size, each is compared with the same "
        "model at 16 bit: the difference over the items both were scored on, with its 95% "
        "interval. In bold: where it leaves out 0.</p>",
        *parts,
    ]


def _table(costs: pd.DataFrame, metric: str) -> str:
    columns = ["Model", "Setting", "Size", in_unit(metric, "Value"), in_unit(metric, "Difference")]
    columns += ["95% interval", "Errors"]
    rows = []
    for row in costs.itertuples():
        known = row.errors != "unknown"
        change = signed(metric, row.difference, row.difference_stderr)
        ends = f"{signed(metric, row.low)} to {signed(metric, row.high)}" if known else "?"
        rows.append(
            [
                escape(str(row.model)),
                f"{dot(row.bits)}{escape(row.setting)}",
                "" if pd.isna(row.size_bits) else format_bits(float(row.size_bits)),
                format_value(metric, row.value, row.stderr, unit=False),
                f"<b>{change}</b>" if row.clear else change,
                ends,
                row.errors,
            ]
        )
    return table(columns, rows, numbers=columns[2:6])


def signed(metric: str, value: float, stderr: float | None = None) -> str:
    """A difference with its sign."""
    text = format_value(metric, value, stderr, unit=False)
    return f"+{text}" if value > 0 else text
