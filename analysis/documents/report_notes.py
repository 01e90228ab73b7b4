"""The report's words around its answers: what was left out, and how to read the rest."""

import pandas as pd

from analysis.curves.metrics import tasks_in
from analysis.curves.names import AXIS_NAMES, name_metric
from analysis.curves.points import curve_points
from analysis.curves.protocols import left_out_sentences
from analysis.curves.rows import metric_rows
from analysis.documents.markup import escape
from analysis.findings.wording import CALIBRATED, SELECTED


def notes(results: pd.DataFrame, metrics: list[str]) -> list[str]:
    """What no curve holds, where something was left out."""
    said = [s for metric in metrics for s in left_out_sentences(metric_rows(results, metric))]
    lines = "".join(f"<li>{escape(sentence)}</li>" for sentence in dict.fromkeys(said))
    return [f"<h2>Left out</h2><ul>{lines}</ul>"] if lines else []


def how_to_read(
    results: pd.DataFrame, metrics: list[str], axis: str, task: str | None = None
) -> list[str]:
    """What points, curves, leads and errors mean, and what was scored."""
    scored = []
    for metric in metrics:
        points = curve_points(results, metric, task)
        low, high = int(points["n_items"].min()), int(points["n_items"].max())
        count = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        for name in points["task"].unique():
            what = f"{count} windows of text"
            if metric == "zero_shot":
                parts = [f"{part} ({accuracy})" for part, accuracy in tasks_in(name).items()]
                over = f"the mean over {', '.join(parts)}; " if len(parts) > 1 else ""
                what = f"{over}{count} items in all"
            called = name_metric(metric, [name]).capitalize()
            scored.append(f"<li>{escape(called)} on {escape(name)}: {escape(what)}.</li>")
    return [
        "<h2>How to read this</h2><ul>",
        "<li>A point is one experiment: a model at a precision. Its size is "
        f"{AXIS_NAMES[axis]}.</li>",
        "<li>A curve joins the models of one family at one precision setting, linearly in log "
        "size, never beyond its ends. A diverged model (NaN or infinite loss) interrupts it.</li>",
        "<li>Bit-optimal at a budget is the setting whose curve is best there; 16-bit competes as "
        "well. A budget usually falls between two real models, both named in the table.</li>",
        "<li>“Undetermined” means that fewer than two precisions have a value at the budget, so "
        "there is nothing to compare; “at chance”, that none can be told "
        "from guessing there, as of few items none can. "
        "The runner-up is the best setting of another precision.</li>",
        "<li>Near the ends of the range few settings have models of the right size, and the "
        "winner may only lack rivals: see “Compared”, and whether a smaller experiment "
        "is marked better than the curve.</li>",
        "<li>± is one standard error. A score's error comes from the spread over its items; a "
        "share of right answers that came without one has the binomial one of its items, anything "
        "else has none, and then there is no interval and no verdict (“?”). Where per-item scores "
        "are stored, a lead's error is that of the difference over the items both were scored on, "
        "and intervals come from a bootstrap that draws the same items for every precision, so "
        "that common luck cancels; elsewhere errors are combined as if independent, which "
        "overstates that of a lead.</li>",
        f"<li>{escape(SELECTED)}</li>",
        "<li>Probable winners: the probability that a precision is truly best. In brackets: the "
        "most frequent winner when the family's sizes are resampled too. How far to trust it: "
        f"{escape(CALIBRATED)}</li>",
        *scored,
        "</ul>",
    ]
