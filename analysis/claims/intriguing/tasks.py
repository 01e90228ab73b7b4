"""Zero-shot tasks: the paper's percent degradation, by task, and 4-bit weights on LAMBADA."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.claims.claim import Exhibit, between, table
from analysis.claims.intriguing.published import BLOOM_LAMBADA, TABLE_4, TASKS, percent_change
from analysis.claims.intriguing.runs import (
    BASELINE,
    DOSES,
    PAPERS_DOSES,
    FloatArray,
    Ladder,
    is_planted,
)
from analysis.claims.intriguing.seeds import LEVEL, t_interval
from analysis.claims.paper import Study
from analysis.curves.settings import settings_of
from analysis.noise.bootstrap import N_REPLICATES
from evaluation.tasks.sets import TASK_SETS

SET = TASK_SETS["sotu"]
FAMILIES = "Families before and after quantization"
FIGURE_1 = "Figure 1, on the embedded families: mean zero-shot accuracy in percent"
LAST_WORD = "sotu_last_word"  # the last word of a passage, as LAMBADA asks it


def accuracies(study: Study) -> pd.DataFrame:
    """A row a model: names and, for each dose and task, (dose, task) its accuracy and its items."""
    results = study.results
    wanted = results[results["metric"] == results["task"].map(SET)]
    names = {setting: name for name, setting in DOSES.items() if name in PAPERS_DOSES}
    names[BASELINE] = "16"
    dose = [names.get(replace(setting, calibration=None)) for setting in settings_of(wanted)]
    return wanted.assign(dose=dose).dropna(subset="dose")


def task_exhibits(study: Study, ladder: Ladder) -> Iterator[Exhibit]:
    rows = accuracies(study)
    rows = rows[~is_planted(rows)]
    trained = rows[rows["run"].notna()]
    if len(trained):
        yield _by_variant(study, trained, ladder)
    yield _families(rows[rows["run"].isna()])
    if len(rows):
        yield _last_word(rows)


def _by_variant(study: Study, rows: pd.DataFrame, ladder: Ladder) -> Exhibit:
    lines = []
    for variant in ladder.variants:
        part = rows[rows["variant"] == variant]
        for dose in ("16", *PAPERS_DOSES):
            at = part[part["dose"] == dose]
            if at.empty:
                continue
            means = [100 * at.loc[at["task"] == task, "value"].mean() for task in SET]
            cells = [f"{mean:.1f}" for mean in means]
            change = ["", "", ""] if dose == "16" else _change(study, part, dose)
            seeds = str(at["run"].nunique())
            lines.append([variant, dose, seeds, *cells, f"{np.mean(means):.1f}", *change])
    return Exhibit(
        "Zero-shot accuracy before and after quantization, by task",
        "the last table of appendix A.3, with intervals that it lacks",
        [
            "Accuracy in percent, means over seeds. “Average % diff” is the paper's: the mean over "
            f"tasks of 100 (after - before) / before. {LEVEL:.0%} intervals over seeds by "
            f"Student's t, over items by {N_REPLICATES:,} bootstrap replicates that draw the same "
            "items before and after and for every seed.",
            table(
                ["Variant", "Dose", "Seeds", *(name.removeprefix("sotu_") for name in SET),
                 "Mean", "Average % diff", "Over seeds", "Over items"],
                lines,
                text=2,
            ),
        ],
    )  # fmt: skip


def _change(study: Study, part: pd.DataFrame, dose: str) -> list[str]:
    """The mean percent change of a variant's runs, with its intervals over seeds and items."""
    by = part.pivot_table(index="run", columns=["dose", "task"], values="value", aggfunc="first")
    if dose not in by.columns.get_level_values(0) or "16" not in by.columns.get_level_values(0):
        return ["", "", ""]
    changes = (100 * (by[dose] - by["16"]) / by["16"]).dropna().mean(axis=1)
    over_seeds = between(*t_interval(changes.to_numpy(dtype=np.float64)), "+.2f")
    over_items = between(*_over_items(study, part, dose), "+.2f")
    return [f"{changes.mean():+.2f}", over_seeds, over_items]


def _over_items(study: Study, part: pd.DataFrame, dose: str) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    tasks = []
    columns = (part[name].tolist() for name in ("task", "dose", "run", "experiment_id"))
    there: dict[tuple[str, str], dict[str, str]] = {}
    for task, at, run, id_ in zip(*columns, strict=True):
        there.setdefault((task, at), {})[run] = id_
    for task, metric in SET.items():
        ids = {d: there.get((task, d), {}) for d in ("16", dose)}
        runs = [run for run in ids["16"] if run in ids[dose]]
        found = study.scores([ids[d][run] for d in ids for run in runs], task, metric, None)
        if not runs or len(found) < 2 * len(runs):
            return np.nan, np.nan
        before, after = (np.array([found[ids[d][run]] for run in runs]) for d in ("16", dose))
        draws = rng.integers(before.shape[1], size=(N_REPLICATES, before.shape[1]))
        tasks.append(_redrawn(before, after, draws))
    low, high = np.quantile(np.mean(tasks, axis=0), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _redrawn(before: FloatArray, after: FloatArray, draws: np.ndarray) -> FloatArray:
    """Percent change, mean over runs, of each replicate: [runs, items] twice -> [replicates]."""
    changes = []
    for first, second in zip(before, after, strict=True):
        mean = first[draws].mean(axis=1)
        changes.append(100 * (second[draws].mean(axis=1) - mean) / mean)
    return np.mean(changes, axis=0)


def _families(rows: pd.DataFrame) -> Exhibit:
    if rows.empty:
        return Exhibit(FAMILIES, FIGURE_1, ["No family has been measured here yet."])
    names = ["family", "model", "n_params"]
    by = rows.pivot_table(index=names, columns=["dose", "task"], values="value", aggfunc="first")
    lines = []
    for (family, model, n_params), values in by.sort_index(level=["family", "n_params"]).iterrows():
        before = values["16"]
        cells = [f"{100 * before.mean():.1f}"]
        for dose in PAPERS_DOSES:
            known = dose in values.index.get_level_values(0)
            after = values[dose] if known else before * np.nan
            cells += [
                f"{100 * after.mean():.1f}",
                f"{(100 * (after - before) / before).mean():+.1f}",
            ]
        lines.append([family, model, f"{n_params:,}", *cells])
    return Exhibit(
        FAMILIES,
        FIGURE_1,
        [
            "OPT and BLOOM here are their architectures, trained on the same text by the same "
            "recipe as the others, not the published models: what sets those apart (data, recipe, "
            "scale) is not in this table. The published models were not measured here.",
            table(["Family", "Model", "Parameters", "16 bit", "W8A8", "% diff", "W4", "% diff"],
                  lines, text=2),
        ],
    )  # fmt: skip


def _last_word(rows: pd.DataFrame) -> Exhibit:
    part = rows[rows["task"] == LAST_WORD]
    by = part.pivot_table(index="model", columns="dose", values="value", aggfunc="first")
    lines = [[name, "LAMBADA", "W4", f"{change:+.1f} %"] for name, change in BLOOM_LAMBADA.items()]
    place = TASKS.index("LAMBADA")
    for size, values in TABLE_4.items():
        change = percent_change((values["FP16"][place],), (values["W4"][place],))
        told = f"{change:+.1f} %" + (" (the text: -8.6 %)" if size == "52B" else "")
        lines.append([f"the paper's {size}", "LAMBADA", "W4", told])
    groups = part.drop_duplicates("model").set_index("model")
    groups = groups["variant"].where(groups["run"].notna(), groups["family"])
    if {"16", "W4"} <= set(by.columns):
        changes = (100 * (by["W4"] - by["16"]) / by["16"]).dropna()
        for name, values in changes.groupby(groups.reindex(changes.index), sort=False):
            lines.append([f"{name} ({len(values)})", "last words here", "W4",
                          f"{values.mean():+.1f} %"])  # fmt: skip
    return Exhibit(
        "4-bit weights on LAMBADA, beside BLOOM's",
        "section 4, “Scaling insights”",
        [
            "Column-wise 4-bit weights alone. Percent of the accuracy before. Ours is the embedded "
            "last-word task of 500 items, at which models of this size are right at about one in "
            "six: a change of 5 % is four items. In brackets: models, of which it is the mean.",
            table(["Model", "Task", "Dose", "Change"], lines, text=3),
        ],
    )
