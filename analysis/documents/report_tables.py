"""The report's tables: the answer per budget, per meaning of size, and every experiment."""

import pandas as pd

from analysis.answers.shares import optimal_table
from analysis.curves.budget import format_bits
from analysis.curves.names import AXIS_NAMES, METRIC_NAMES, format_value, in_unit, name_metric
from analysis.curves.points import curve_points
from analysis.curves.settings import settings_of
from analysis.documents.markup import escape
from analysis.documents.page import dot, table
from analysis.findings.finding import find
from analysis.findings.outliers import STATISTICS, outlier_metrics
from analysis.findings.wording import list_probabilities, list_shares
from analysis.noise.bootstrap import ItemScores, no_item_scores


def budget_tables(
    results: pd.DataFrame,
    metrics: list[str],
    axis: str,
    task: str | None = None,
    scores: ItemScores = no_item_scores,
) -> list[str]:
    parts = ["<h2>The best precision at a budget</h2>"]
    for metric in metrics:
        columns = ["Budget", "Precision", "Between models", in_unit(metric, "Value"), "Runner-up"]
        columns += [in_unit(metric, "Lead"), "90% interval", "Probable winners", "Compared"]
        columns += ["Best experiment that fits"]
        answers = optimal_table(results, None, metric, axis, task, scores=scores)
        for family, part in answers.groupby("family", sort=False):
            rows = [_budget_row(row, metric) for _, row in part.iterrows()]
            name = name_metric(metric, part["task"].unique())
            parts.append(f"<h3>{escape(str(family))}, by {escape(name)}</h3>")
            parts.append(table(columns, rows, numbers=[columns[0], *columns[5:7]]))
    return parts


def _budget_row(row: pd.Series, metric: str) -> list[str]:
    fit = "none fits"
    if not pd.isna(row["best_fit_model"]):
        value = format_value(metric, row["best_fit_value"], unit=False)
        fit = f"{_short(row['best_fit_model'], row)} at {escape(row['best_fit_setting'])}: {value}"
        fit += ", <b>beats the curve</b>" if row["beaten_by_smaller"] else ""
    fit = f'<span class="room">{fit}</span>'
    if not row["determined"]:
        return [row["budget"], f"Undetermined: {escape(row['reason'])}", fit]
    models = [_short(row[column], row) for column in ("model_at_or_below", "model_above")]
    ends = [format_value(metric, row[c], unit=False) for c in ("lead_low_items", "lead_high_items")]
    known = isinstance(row["probability_items"], dict)
    between = " to ".join(ends) if known else "?"
    cells = [
        f"{dot(row['bits'])}{escape(row['setting'])}",
        " and ".join(model for model in models if model),
        format_value(metric, row["value"], row["stderr"], unit=False),
        escape(row["runner_up"]),
        format_value(metric, row["lead"], row["lead_stderr"], unit=False),
        f"<b>{between}</b>" if row["significant"] else between,
        _probable(row) if known else "?",
        f"{row['n_compared']}/{row['n_settings']}",
    ]
    return [row["budget"], *(f'<span class="keep">{cell}</span>' for cell in cells), fit]


def _probable(row: pd.Series) -> str:
    models = row["probability_models"]
    other = f" ({list_probabilities(dict(list(models.items())[:1]))})" if models else ""
    return list_probabilities(dict(list(row["probability_items"].items())[:3])) + other


def _short(model: str | None, row: pd.Series) -> str:
    """A model's name under its family's heading."""
    return "" if pd.isna(model) else escape(str(model).removeprefix(f"{row['family']}-"))


def axis_table(
    results: pd.DataFrame,
    metrics: list[str],
    task: str | None = None,
    scores: ItemScores = no_item_scores,
) -> list[str]:
    rows = []
    for axis, name in AXIS_NAMES.items():
        cells = [name]
        for metric in metrics:
            finding = find(results, metric, axis, task, scores)
            cells.append(list_shares(finding.by_precision) or "undetermined")
        rows.append(cells)
    return [
        "<h2>Does it matter what is counted?</h2>",
        "<p>In scope <i>linear</i> the embeddings stay at 16 bits, and in small models they are "
        "most of the size, so the answer depends on what counts as size. Share of budgets won "
        "(on the lower two axes only settings of one scope can be compared):</p>",
        table(["Size counted", *(METRIC_NAMES[m].capitalize() for m in metrics)], rows),
    ]


def outlier_table(results: pd.DataFrame) -> list[str]:
    """Table 2, for the models of which `kbit outliers` has stored it."""
    stored = outlier_metrics(results)
    rows = []
    for (model, pair), part in stored.groupby(["model", "pair"], sort=False):
        by_name = part.drop_duplicates("statistic", keep="last").set_index("statistic")
        cells = [
            f"{by_name.loc[name, 'value']:.2f} ± {by_name.loc[name, 'stderr']:.2f}"
            if name in by_name.index
            else ""
            for name in STATISTICS
        ]
        rows.append([escape(str(model)), escape(str(pair)), *cells])
    if not rows:
        return []
    columns = ["Model", "Weights → features", "Spearman", "Pearson", "Largest / median deviation"]
    return [
        "<h3>Weight deviation and feature size (section 3, table 2)</h3>",
        "<p>Correlation of a unit’s weight standard deviation with its mean absolute feature on "
        "held-out text: mean over layers ± its standard error.</p>",
        f"<details><summary>{stored['model'].nunique()} models</summary>"
        f"{table(columns, rows, numbers=columns[2:])}</details>",
    ]


def experiment_tables(results: pd.DataFrame) -> list[str]:
    by_id = results.drop_duplicates("experiment_id").set_index("experiment_id")
    shown: dict[str, pd.Series] = {}
    for metric in ("cross_entropy", "perplexity", "zero_shot"):
        points = curve_points(results, metric).set_index("experiment_id")
        cells = [
            format_value(metric, v, e)
            for v, e in zip(points["value"], points["stderr"], strict=True)
        ]
        if cells:
            shown[METRIC_NAMES[metric].capitalize()] = pd.Series(cells, points.index)
    cells_of = [column.to_dict() for column in shown.values()]
    parts = ["<h2>All experiments</h2>"]
    for family, part in by_id.groupby("family", sort=False):
        rows = part.sort_values(["n_params", "bits"])
        labels = {setting: setting.label for setting in set(settings_of(rows))}
        lines = [
            [
                escape(row.model),
                f"{dot(row.bits)}{escape(labels[setting])}",
                f"{row.bits_per_param:.3f}",
                "" if pd.isna(row.total_bits) else format_bits(float(row.total_bits)),
                *(column.get(row.Index, "") for column in cells_of),
            ]
            for row, setting in zip(rows.itertuples(), settings_of(rows), strict=True)
        ]
        columns = ["Model", "Setting", "Bits per parameter", "Total size", *shown]
        parts.append(
            f"<details><summary>{escape(str(family))}: {len(rows)} experiments</summary>"
            + table(columns, lines, numbers=columns[2:])
            + "</details>"
        )
    return parts
