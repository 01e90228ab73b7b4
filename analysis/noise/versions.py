"""Two measurements of the same experiments: by two machines, or two versions of a library."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.curves.settings import setting_of
from analysis.noise.bootstrap import ItemScores

KEY = ["experiment_id", "protocol", "metric"]


def measured_twice(
    first: pd.DataFrame, second: pd.DataFrame, of_first: ItemScores, of_second: ItemScores
) -> pd.DataFrame:
    """What changed from `first` to `second`, a row for each model, task and metric that both have.

    Experiments are the same by id (model, revision, setting, compute dtype), protocols too.
    experiments: how many; identical: of them to the last bit; difference: the mean, second minus
    first; stderr: of it over the items that all were scored on (each item's mean difference over
    the experiments; of a perplexity those of its cross-entropy, times itself), NaN where a database
    has no scores of items; largest: in magnitude, and at which setting.
    """
    both = first.merge(second[[*KEY, "value"]], on=KEY, suffixes=("", "_second"))
    both["difference"] = both["value_second"] - both["value"]
    same = (both["value"] == both["value_second"]) | (
        both["value"].isna() & both["value_second"].isna()
    )
    rows = []
    grouped = both.assign(same=same).groupby(["model", "task", "protocol", "metric"], sort=False)
    for (model, task, protocol, metric), group in grouped:
        ids = list(group["experiment_id"])
        scores = [
            _items(of, group.set_index("experiment_id")[column], str(task), str(metric), protocol)
            for of, column in ((of_first, "value"), (of_second, "value_second"))
        ]
        known = group["difference"].abs().fillna(np.inf)  # diverged in one of them alone
        known[group["same"]] = 0.0
        worst = known.idxmax()
        rows.append(
            {
                "model": model,
                "task": task,
                "metric": metric,
                "experiments": len(group),
                "identical": int(group["same"].sum()),
                "difference": group["difference"].mean(),
                "stderr": _stderr(ids, *scores),
                "largest": known[worst],
                "largest_at": setting_of(group.loc[worst]).label,
            }
        )
    columns = ["model", "task", "metric", "experiments", "identical", "difference", "stderr"]
    return pd.DataFrame(rows, columns=[*columns, "largest", "largest_at"])


def _items(
    scores: ItemScores, value: pd.Series, task: str, metric: str, protocol: object
) -> Mapping[str, np.ndarray]:
    """Experiment -> what each item gives to its value, for the experiments (ids) of `value`."""
    ids = list(value.index)
    if metric != "perplexity":
        return scores(ids, task, metric, str(protocol))
    found = scores(ids, task, "cross_entropy", str(protocol))
    return {id_: items.astype(float) * value[id_] for id_, items in found.items()}


def _stderr(
    ids: list[str], first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]
) -> float:
    """Of the mean difference over items, which the experiments of a model share."""
    differences = [
        second[id_].astype(float) - first[id_].astype(float)
        for id_ in ids
        if id_ in first and id_ in second and len(first[id_]) == len(second[id_])
    ]
    if len(differences) < len(ids) or len({len(d) for d in differences}) != 1:
        return float("nan")
    items = np.mean(differences, axis=0)
    return float(items.std(ddof=1) / np.sqrt(len(items))) if len(items) > 1 else float("nan")
