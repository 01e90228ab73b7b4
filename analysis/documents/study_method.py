"""Where a study's numbers come from: what was scored, and what its intervals mean."""

import numpy as np
import pandas as pd

from analysis.claims.claim import Block, table
from analysis.claims.four_bit.optimum import linear_only, main_only
from analysis.curves.points import curve_points
from analysis.noise.bootstrap import N_REPLICATES, ItemScores
from analysis.noise.means import margin


def method(results: pd.DataFrame, scores: ItemScores) -> list[Block]:
    """Paragraphs and a table: the metrics with their errors, and how intervals are made."""
    rows = []
    for metric in ("zero_shot", "cross_entropy"):
        points = curve_points(results, metric)
        for task, part in points.groupby("task"):
            low, high = part["n_items"].min(), part["n_items"].max()
            count = f"{low:,}" if low == high else f"{low:,} to {high:,}"
            error = f"{median:.4f}" if (median := part["stderr"].median()) > 0 else "unknown"
            rows.append([metric.replace("_", "-"), str(task), f"{len(part):,}", count, error])
    return [
        "Sizes count every bit of the model unless stated (unquantized parameters at 16). Losses "
        "are nats a token.",
        table(["Metric", "On", "Experiments", "Items", "Median standard error"], rows, text=2),
        "Intervals are 90 % and, unless stated, over the items, which are the same for every "
        "experiment, so that what two settings have in common cancels: differences are known far "
        "better than values. Of two settings on the same models they are Student's, else of "
        f"{N_REPLICATES:,} bootstrap replicates (200 for shares of budgets), as wide where there "
        "are few items. Right-or-wrong items are given one more gained and one more lost (Bonett "
        "and Price), so that where few changed that is not taken for certainty. "
        "Intervals over items and models also redraw the sizes of each family. Intervals of shares "
        "of budgets are widened where needed to hold the share. “Clearly” means that the whole "
        "interval lies on one side.",
        "The items of a loss are consecutive windows of running text, many of them of the same "
        "document, drawn as if they were "
        f"independent.{_dependence(results, scores)} So intervals are about more text of this "
        "kind, not about text of other kinds.",
    ]


def _dependence(results: pd.DataFrame, scores: ItemScores) -> str:
    """How alike neighbouring windows are: a sentence, or "" where they have no scores."""
    points = curve_points(main_only(linear_only(results)), "cross_entropy")
    values, differences, windows = [], [], []
    for (_, task), part in points.groupby(["model", "task"]):
        at = dict(zip(part["bits"].tolist(), part["experiment_id"].tolist(), strict=True))
        ids = [at[bits] for bits in (16, 4) if bits in at]
        found = scores(ids, str(task), "cross_entropy", None) if len(ids) == 2 else {}
        full, four = (found.get(at.get(bits, "")) for bits in (16, 4))
        if full is not None and four is not None and len(full) == len(four) > 2:
            values.append(_neighbours(full))
            differences.append(_neighbours(four - full))
            windows.append(len(full))
    if not np.isfinite([*values, *differences]).any():
        return ""
    value, difference = np.nanmedian(values), np.nanmedian(differences)
    reach = float(margin(1 / np.sqrt(min(windows))))  # of a correlation that is 0
    told = [_meaning(value, reach), _meaning(difference, reach)]
    both = f"errors of losses are {told[0]}, those of differences {told[1]}"
    if told[0] == told[1]:
        both = f"errors of losses, and of differences, are {told[0]}"
    return (
        f" Neighbouring windows correlate by {value:+.2f} in the loss of the 16-bit model and by "
        f"{difference:+.2f} in what 4 bit adds to it (medians over models; within {reach:.2f} of 0 "
        f"it may be chance): {both}."
    )


def _meaning(correlation: float, reach: float) -> str:
    """What a correlation of neighbours means for errors that take items as independent."""
    if not abs(correlation) > reach:
        return "not known to differ from those stated"
    return f"{'larger' if correlation > 0 else 'smaller'} than stated"


def _neighbours(items: np.ndarray) -> float:
    """Correlation of each item with the next; NaN where all are equal."""
    first, second = items[:-1].astype(float), items[1:].astype(float)
    if not (first.std() > 0 and second.std() > 0):
        return np.nan
    return float(np.corrcoef(first, second)[0, 1])
