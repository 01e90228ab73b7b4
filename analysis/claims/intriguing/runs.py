"""A training study's rows as damage: what each dose of quantization adds to a model's loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.claims.paper import Study
from analysis.curves.settings import settings_of
from quantizers.recipes import RECIPES
from quantizers.setting import Setting

FloatArray = npt.NDArray[np.float64]

BASELINE = Setting.make(16)
DOSES = {
    "W8A8": RECIPES["vectorwise-w8a8"].setting,
    "A8 static": Setting.make(16, activations={"tensor": 8}),
    "A6": Setting.make(16, activations={"token": 6}),
    "W4": RECIPES["columnwise-w4"].setting,
    "A4": Setting.make(16, activations={"token": 4}),
    "W3": Setting.make(3, data_type="int", block_size="row"),
    "W4 tensor": Setting.make(4, data_type="int", block_size=None),
}
"""The ladder, mildest first: weights a row (or a tensor), activations a token (or static)."""
PAPERS_DOSES = ("W8A8", "W4")
PLANTED = "planted "
JUDGED = ("W3", "A4")
"""Those that verdicts rest on: one of weights and one of activations that small models feel, and
that were measured on the way as well."""


@dataclass(frozen=True, eq=False)
class Point:
    """One model at one dose: nats a token that quantizing it adds to `base`, its 16-bit loss.

    items: the same by window, [n], None where there are none.
    """

    base: float
    added: float
    items: FloatArray | None


@dataclass(frozen=True)
class Model:
    """What was trained: of one size, by one variant of the recipe and with one seed."""

    size: str
    variant: str
    seed: int


@dataclass(frozen=True, eq=False)
class Ladder:
    """Damage of every model by dose and step. `runs`: how models were trained, a row a model."""

    points: Mapping[Model, Mapping[str, Mapping[int, Point]]]
    runs: pd.DataFrame

    @property
    def sizes(self) -> list[str]:
        return list(dict.fromkeys(model.size for model in self.points))

    @property
    def variants(self) -> list[str]:
        """In the study's order, which the table of runs has."""
        there = dict.fromkeys(model.variant for model in self.points)
        order = [v for v in dict.fromkeys(self.runs["variant"]) if v in there]
        return [*order, *(v for v in there if v not in order)]

    @property
    def seeds(self) -> list[int]:
        return sorted({model.seed for model in self.points})

    def final(self, model: Model, dose: str) -> Point | None:
        """At the end of training; None where it was not measured."""
        points = self.points.get(model, {}).get(dose, {})
        last = self.last_step(model)
        return points.get(last) if last is not None else None

    def last_step(self, model: Model) -> int | None:
        steps = [step for points in self.points.get(model, {}).values() for step in points]
        return max(steps, default=None)

    def same_models(self, first: str, second: str) -> bool:
        """Whether two variants ended in the very same weights, in every run that both have."""
        last = self.runs.sort_values("step").groupby(["size", "variant", "seed"]).tail(1)
        digests = last.pivot_table(
            index=["size", "seed"], columns="variant", values="sha256", aggfunc="first"
        )
        if not {first, second} <= set(digests.columns):
            return False
        both = digests[[first, second]].dropna()
        return len(both) > 0 and bool((both[first] == both[second]).all())


def read_ladder(study: Study, planted: bool = False) -> Ladder:
    """The ladder of a study's results: of models that a run trained, on their corpus; `planted`: of
    those with planted outliers."""
    runs = study.tables.get("runs", pd.DataFrame(columns=["variant", "size", "seed", "step"]))
    results = study.results
    if "run" not in results:
        return Ladder({}, runs)
    rows = results[results["run"].notna() & (results["metric"] == "cross_entropy")]
    rows = rows[is_planted(rows) == planted]
    names = {setting: name for name, setting in DOSES.items()} | {BASELINE: "16"}
    dose = [names.get(replace(setting, calibration=None)) for setting in settings_of(rows)]
    rows = rows.assign(dose=dose).dropna(subset="dose")
    items = _items(study, rows)
    losses: dict[tuple[Model, int], dict[str, tuple[float, FloatArray | None]]] = {}
    for row in rows.itertuples():
        model = Model(str(row.run).split("-")[1], str(row.variant), int(row.seed))
        at_step = losses.setdefault((model, int(row.step)), {})
        at_step[str(row.dose)] = (float(row.value), items.get(row.experiment_id))
    points: dict[Model, dict[str, dict[int, Point]]] = {}
    for (model, step), by_dose in losses.items():
        if "16" not in by_dose:
            continue
        base, base_items = by_dose.pop("16")
        for name, (value, scored) in by_dose.items():
            differences = None
            if scored is not None and base_items is not None:
                differences = scored - base_items
            point = Point(base, value - base, differences)
            points.setdefault(model, {}).setdefault(name, {})[step] = point
    return Ladder(points, runs)


def is_planted(rows: pd.DataFrame) -> pd.Series:
    """Whether each row is of a model in which outliers were planted."""
    return rows["variant"].fillna("").astype(str).str.startswith(PLANTED)


def _items(study: Study, rows: pd.DataFrame) -> dict[str, FloatArray]:
    found: dict[str, FloatArray] = {}
    for task, part in rows.groupby("task"):
        ids: Sequence[str] = part["experiment_id"].tolist()
        scored = study.scores(ids, str(task), "cross_entropy", None)
        found |= {id_: scores.astype(np.float64) for id_, scores in scored.items()}
    return found
