"""Planted outliers: the positive control, which damage and the metrics of damage must follow."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import stats

from analysis.claims.claim import Exhibit, table
from analysis.claims.intriguing.looks import KINDS, METRICS, looks
from analysis.claims.intriguing.runs import PLANTED, Model, is_planted, read_ladder
from analysis.claims.paper import Study

HIT = ("W8A8", "A8 static", "A6", "A4")
"""Doses of activations, which planted outliers are to hurt: weights are none the worse."""
FOLLOWS, IN_PART = 0.9, 0.5  # rank correlations from which a metric follows damage


def control_exhibit(study: Study) -> Iterator[Exhibit]:
    """Nothing where no model was planted."""
    planted = read_ladder(study, planted=True)
    if not planted.points:
        return
    found = looks(study.results)
    trained = read_ladder(study)
    rows, damage, seen = [], [], []
    for model, values in _models(found):
        ladder = planted if model.variant.startswith(PLANTED) else trained
        points = [ladder.final(model, dose) for dose in HIT]
        added = [point.added for point in points if point is not None]
        if len(added) < len(HIT):
            continue
        damage.append(added)
        seen.append([values[name] for name in METRICS])
        rows.append([model.variant, *(f"{x:.4f}" for x in added)])
    order = np.argsort([sum(added) for added in damage])
    lines = []
    for i, name in enumerate(METRICS.values()):
        metric = np.array(seen)[:, i]
        ranks = [_rank(metric, np.array(damage)[:, j]) for j in range(len(HIT))]
        usual = float(np.mean(ranks))
        told = "follows" if usual >= FOLLOWS else "in part" if usual >= IN_PART else "does not"
        cells = [f"{value:.4g}" for value in metric[order]]
        lines.append([name, *cells, *(f"{rank:+.2f}" for rank in ranks), told])
    names = [rows[i][0].removeprefix(PLANTED) for i in order]
    yield Exhibit(
        "Planted outliers, the positive control",
        "the paper has none; ours, for its metrics (section 5)",
        [
            "In one control's model so many features of every norm were multiplied by a power of "
            "two and what reads them divided by it, which leaves the function as it was: whatever "
            "a dose then adds is the outliers' doing. Nats a token:",
            table(["Planted (features x factor)", *HIT], [rows[i] for i in order]),
            "Each metric (mean over the four kinds of matrices) in the same order, and Spearman's "
            f"correlation with each dose's damage; it follows where their mean is {FOLLOWS:g} or "
            f"more, in part from {IN_PART:g} on. One model, {len(rows)} degrees: ranks alone.",
            table(["Metric", *names, *HIT, "Follows damage"], lines),
        ],
    )


def _models(found: pd.DataFrame) -> Iterator[tuple[Model, dict[str, float]]]:
    """The planted models and the one they were made of, each with its metrics."""
    planted = found[is_planted(found)]
    origin = planted["run"].str.split(" ").str[0].iloc[0] if len(planted) else ""
    for row in found[is_planted(found) | (found["run"] == origin)].to_dict("records"):
        model = Model(str(row["run"]).split("-")[1], str(row["variant"]), int(row["seed"]))
        values = {
            name: float(np.nanmean([row.get(f"{name}_{kind}", np.nan) for kind in KINDS]))
            for name in METRICS
        }
        yield model, values


def _rank(first: np.ndarray, second: np.ndarray) -> float:
    if len(first) < 3 or np.ptp(first) == 0:
        return 0.0
    return float(stats.spearmanr(first, second).statistic)
