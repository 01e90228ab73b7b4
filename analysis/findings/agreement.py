"""Do perplexity and zero-shot accuracy agree? (Section 4: Pearson -0.94 over all experiments.)"""

import numpy as np
import pandas as pd
from scipy import stats

from analysis.curves.metrics import PERPLEXITY_CAP
from analysis.curves.points import curve_points
from analysis.noise.spread import INTERVAL


def metric_correlations(results: pd.DataFrame) -> pd.DataFrame:
    """Correlation of perplexity, and of cross-entropy, with mean zero-shot accuracy.

    Over all experiments that have both, per family and pooled ("all families"). Perplexities above
    100, and diverged models, count as 100 (cross-entropies as its logarithm), as the paper plots
    them: one exploded model must not decide a Pearson correlation. Columns: family, metric,
    pearson, low, high (90%, Fisher's z), spearman, n. Needs four experiments.
    """
    accuracy = curve_points(results, "zero_shot").set_index("experiment_id")["value"]
    rows = []
    for metric in ("perplexity", "cross_entropy"):
        points = curve_points(results, metric)
        cap = PERPLEXITY_CAP if metric == "perplexity" else np.log(PERPLEXITY_CAP)
        loss = points["value"].fillna(np.inf).clip(upper=cap)
        both = points.assign(loss=loss, accuracy=points["experiment_id"].map(accuracy))
        both = both[np.isfinite(both["accuracy"].to_numpy(dtype=np.float64))]
        groups = [(str(f), part) for f, part in both.groupby("family", sort=False)]
        for family, part in [*groups, ("all families", both)]:
            if len(part) >= 4 and part["loss"].nunique() > 1 and part["accuracy"].nunique() > 1:
                rows.append(_row(family, metric, part["loss"], part["accuracy"]))
    columns = ["family", "metric", "pearson", "low", "high", "spearman", "n"]
    return pd.DataFrame(rows, columns=columns)


def _row(family: str, metric: str, loss: pd.Series, accuracy: pd.Series) -> list[object]:
    pearson = stats.pearsonr(loss, accuracy)
    low, high = pearson.confidence_interval(INTERVAL)
    spearman = stats.spearmanr(loss, accuracy).statistic
    return [family, metric, pearson.statistic, low, high, spearman, len(loss)]
