"""Which experiments are which recipe, and the measures that recipes are compared by."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.claims.leads import Lead
from analysis.claims.paper import Study
from analysis.curves.metrics import ACCURACIES, accuracy_of
from analysis.curves.points import comparable_rows, curve_points
from analysis.curves.settings import settings_of
from analysis.findings.duels import duel, pair_up
from evaluation.tasks.sets import TASK_SETS
from quantizers.activations.format import NONE
from quantizers.recipes import RECIPES, recipe_of
from quantizers.setting import Setting

FULL = "16 bit"
RANDOM = "random"
TRAINED = "-llm-qat-"  # in the name of a model that `kbit qat` made of another
PLANTED = " planted "  # in the family's name of models that `kbit plant` wrote
LAST_WORD = ("lambada_openai", "sotu_last_word")  # LAMBADA, and the embedded corpus's own
_FPTQ = RECIPES["fptq"].setting
_ALPHA = "fptq, alpha "


@dataclass(frozen=True, eq=False)
class Measure:
    """One way to compare: `name` for people, `metric` of curves, and its points with the columns
    `recipe` (a recipe's name, FULL, or the setting's label) and `text` (the calibration's corpus).
    """

    name: str
    metric: str
    points: pd.DataFrame

    @property
    def unit(self) -> float:
        """What a difference is shown in: nats, or percent of accuracy."""
        return 100.0 if self.metric == "zero_shot" else 1.0

    def of(self, recipe: str, text: str | None = None) -> pd.DataFrame:
        """The points of a recipe, a row a model; by default on whatever text is not random."""
        points = self.points[self.points["recipe"] == recipe]
        if text is None:
            points = points[points["text"] != RANDOM]
        else:
            points = points[points["text"] == text]
        return points.drop_duplicates(["family", "model"])

    @property
    def trained(self) -> pd.DataFrame:
        """The W4A8 points of models that LLM-QAT made, under the names of those it made them of."""
        points = self.points[self.points["model"].str.contains(TRAINED, regex=False)]
        points = points[(points["bits"] == 4) & (points["activations"] != NONE)]
        return points.assign(model=points["model"].str.split(TRAINED).str[0])

    @property
    def alphas(self) -> list[float]:
        """The exponents of the logarithm, beside 1, that FPTQ was run with."""
        others = self.points.loc[self.points["recipe"].str.startswith(_ALPHA), "recipe"]
        return sorted(float(name.removeprefix(_ALPHA)) for name in set(others))

    def of_alpha(self, alpha: float) -> pd.DataFrame:
        return self.of(f"{_ALPHA}{alpha:g}")


def named(rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` with the columns `recipe` and `text`."""
    settings = settings_of(rows)
    text = rows["calibration"].astype("string").str.split(" ").str[0]
    return rows.assign(recipe=[_name(s) for s in settings], text=text.fillna("").astype(object))


def measures(study: Study, planted: bool = False) -> list[Measure]:
    """Cross-entropy, then LAMBADA's accuracy, then means over sets of tasks: what there is.

    LAMBADA is the paper's measure of choice, accuracy on its last word (`acc`), here of the
    `lambada_openai` form. `planted`: of models with planted outliers, instead of all others.
    """
    apart = study.results["family"].astype(str).str.contains(PLANTED, regex=False)
    results = study.results[apart if planted else ~apart]
    made = [_measure(results, "cross_entropy", None, "cross-entropy")]
    made += [_measure(results, "zero_shot", task, f"{task} (acc)") for task in LAST_WORD]
    made += [_measure(results, "zero_shot", task, task) for task in ("csqa", "mmlu", "sotu")]
    return [measure for measure in made if measure is not None]


def versus(
    measure: Measure, study: Study, first: pd.DataFrame, second: pd.DataFrame
) -> Lead | None:
    """Who is ahead on the models that both have."""
    found = duel(pair_up(first, second, ["model"]), measure.metric, study.scores)
    digits = 2 if measure.metric == "zero_shot" else 4
    return None if found is None else Lead(found, measure.name, measure.unit, digits)


def recipe_labels(results: pd.DataFrame) -> dict[str, str]:
    """A setting's label -> its recipe, with what it was calibrated on where that is random."""
    rows = named(results.drop_duplicates("experiment_id"))
    told = rows["recipe"] + np.where(rows["text"] == RANDOM, ", random tokens", "")
    return {s.label: name for s, name in zip(settings_of(rows), told, strict=True)}


def _measure(results: pd.DataFrame, metric: str, task: str | None, name: str) -> Measure | None:
    if metric == "zero_shot" and not results["metric"].isin(ACCURACIES).any():
        return None
    try:
        points = curve_points(results, metric, task)
    except ValueError:  # no experiment was scored on it
        return None
    return Measure(name, metric, named(points)) if len(points) else None


def _name(setting: Setting) -> str:
    if setting.is_baseline:
        return FULL
    if name := recipe_of(setting):
        return name
    plain = replace(setting, calibration=None)
    method = plain.folding_method
    if method and method.name == "logarithmic" and replace(plain, folding=_FPTQ.folding) == _FPTQ:
        return f"{_ALPHA}{method.alpha:g}"
    return plain.label


def accuracies(results: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """Accuracy by experiment (index) and by column: heading -> task set or task, where measured.

    A task of the set csqa is by that set's metric, as FPTQ has it, not the first paper's.
    """
    rows = comparable_rows(results, "zero_shot")
    found = {}
    for heading, task in columns.items():
        if task in TASK_SETS:
            measure = _measure(results, "zero_shot", task, heading)
            points = measure.points if measure else rows.iloc[:0]
        else:
            metric = TASK_SETS["csqa"].get(task, accuracy_of(task))
            points = rows[(rows["task"] == task) & (rows["metric"] == metric)]
        if len(points):
            found[heading] = points.set_index("experiment_id")["value"]
    return pd.DataFrame(found)


def percent(value: float) -> str:
    """A cell: "73.80"; "" where it was not measured."""
    return f"{100 * value:.2f}" if np.isfinite(value) else ""
