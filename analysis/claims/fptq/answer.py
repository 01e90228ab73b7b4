"""What FPTQ's question comes to: which format at equal bits, and what each recipe loses by task."""

from collections.abc import Iterator

import pandas as pd

from analysis.answers.degradation import MEAN, degradations
from analysis.answers.formats import format_shares
from analysis.claims.claim import Exhibit, between, table
from analysis.claims.fptq.recipes import PLANTED, recipe_labels
from analysis.claims.paper import Study
from analysis.curves.metrics import ACCURACIES
from analysis.curves.names import METRIC_NAMES, format_value
from analysis.curves.points import curve_points


def exhibits(study: Study) -> Iterator[Exhibit]:
    planted = study.results["family"].astype(str).str.contains(PLANTED, regex=False)
    results = study.results[~planted]
    rows = [
        row
        for metric in ("cross_entropy", "zero_shot")
        if not curve_points(results, metric).empty
        for row in _shares(results, metric, study)
    ]
    if rows:
        yield Exhibit(
            "W4A16, W8A8 or W4A8, at equal bits",
            "the second axis of the answer",
            [
                "Each format by its best recipe at each budget (total bits, log-spaced) that a "
                "format of weights alone and one with activations reach. “Behind”: mean distance "
                "to the best format where it reaches; “clearly behind”: at how many of these "
                "budgets the 95 % interval of that distance leaves out 0, paired.",
                table(
                    ["Family", "By", "Format", "Most often", "Wins", "Behind", "Clearly behind"],
                    rows,
                    text=4,
                ),
            ],
        )
    if results["metric"].isin(ACCURACIES).any() and (made := _degradation(results, study)):
        yield made


def _shares(results: pd.DataFrame, metric: str, study: Study) -> Iterator[list[str]]:
    names = recipe_labels(results)
    for row in format_shares(results, metric, scores=study.scores).itertuples():
        behind = format_value(metric, row.behind)
        cells = [row.family, METRIC_NAMES[metric], row.format, names[row.usual]]
        yield [*cells, f"{row.share:.0%}", behind, f"{row.clearly_behind:.0%}"]


def _degradation(results: pd.DataFrame, study: Study) -> Exhibit | None:
    """Of the largest model of each family: a setting a row, a task a column."""
    sizes = results.groupby("family")["n_params"].transform("max")
    lost = degradations(results[results["n_params"] == sizes], None, study.scores)
    if lost.empty:
        return None
    tasks = [str(task) for task in lost["task"].unique() if task != MEAN]
    names, rows = recipe_labels(results), []
    for (model, setting), part in lost.groupby(["model", "setting"], sort=False):
        percent = part.set_index("task")["percent"]
        mean = part[part["task"] == MEAN].iloc[0]
        cells = [f"{percent[task]:+.1f}" if task in percent else "" for task in tasks]
        interval = between(mean["low"], mean["high"], "+.1f")
        rows.append([str(model), names[str(setting)], f"{mean['percent']:+.1f}", interval, *cells])
    return Exhibit(
        "Percent degradation by task",
        "the measure of Ahmadian et al. 2023",
        [
            "100 (after - before) / before against the same model at 16 bit, by task and their "
            "mean, with the mean's 90 % interval over the items both were scored on; the largest "
            "model of each family.",
            table(["Model", "Recipe", "Mean (%)", "90 % interval", *tasks], rows, text=2),
        ],
    )
