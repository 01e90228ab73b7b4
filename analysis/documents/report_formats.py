"""The report on activations: which format at equal bits, and what each costs in percent."""

import pandas as pd

from analysis.answers.degradation import MEAN, degradations
from analysis.answers.formats import format_shares
from analysis.claims.claim import between
from analysis.curves.names import format_value, in_unit, name_metric
from analysis.documents.markup import escape
from analysis.documents.page import dot, table
from analysis.noise.bootstrap import ItemScores, no_item_scores

_MOST = 400  # rows; a study with more has them in `kbit optimal --degradation`


def format_tables(
    results: pd.DataFrame,
    metrics: list[str],
    axis: str,
    task: str | None = None,
    scores: ItemScores = no_item_scores,
) -> list[str]:
    """HTML: [] where no setting rounds activations."""
    if (results["activations"].astype(str).isin(["16", "16.0"])).all():
        return []
    parts = [
        "<h2>Weights alone, or activations too?</h2>",
        "<p>At equal total bits, each format (W4A8: 4-bit weights, 8-bit activations) by its best "
        "recipe at each budget. “Behind”: mean distance to the best format where it reaches; "
        "“clearly behind”: at how many of these budgets its 95% interval leaves out 0, paired. "
        "Formats that tie share the budget they win.</p>",
    ]
    for metric in metrics:
        shares = format_shares(results, metric, axis, task, scores)
        if len(shares):
            parts.append(f"<h3>By {escape(name_metric(metric))}</h3>")
            parts.append(_shares(shares, metric))
    if "zero_shot" in metrics:
        lost = degradations(results, task, scores)
        if len(lost):
            parts += _degradation(lost)
    return parts


def _shares(shares: pd.DataFrame, metric: str) -> str:
    columns = ["Family", "Format", "Wins", "Reaches", in_unit(metric, "Behind")]
    columns += ["Clearly behind", "By recipe", "That is"]
    rows = [
        [
            escape(row.family),
            row.format,
            f"{row.share:.0%}",
            f"{row.reached:.0%}",
            format_value(metric, row.behind, unit=False),
            f"{row.clearly_behind:.0%}",
            escape(row.recipe),
            escape(row.usual),
        ]
        for row in shares.itertuples()
    ]
    return table(columns, rows, numbers=columns[2:6])


def _degradation(lost: pd.DataFrame) -> list[str]:
    tasks = [task for task in lost["task"].unique() if task != MEAN]
    columns = ["Model", "Recipe", "Setting", "Mean (%)", "90% interval", *map(str, tasks)]
    rows = []
    for (model, setting), part in lost.groupby(["model", "setting"], sort=False):
        by_task = part.set_index("task")
        mean = by_task.loc[MEAN]
        cells = [
            f"{by_task.loc[task, 'percent']:+.1f}"
            f" ({between(by_task.loc[task, 'low'], by_task.loc[task, 'high'], '+.1f') or '?'})"
            if task in by_task.index
            else ""
            for task in tasks
        ]
        interval = between(mean["low"], mean["high"], "+.2f") or "?"
        named = f"{dot(mean['bits'])}{escape(str(setting))}"
        place = [escape(str(model)), escape(mean["recipe"]), named]
        rows.append([*place, f"{mean['percent']:+.2f}", interval, *cells])
    return [
        "<h3>Percent degradation</h3>",
        "<p>The mean over tasks of (after − before) / before against the same model at 16 bit, "
        "with 90% intervals over the items both were scored on.</p>",
        f"<details><summary>{len(rows)} settings of models</summary>"
        f"{table(columns, rows[:_MOST], numbers=columns[3:])}</details>",
    ]
