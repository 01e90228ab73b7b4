"""A database as a notebook asks it: DataFrames and plotly figures (`kbit.open`)."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import pandas as pd

from analysis.answers.optimal import check_family, optimal
from analysis.answers.shares import optimal_table
from analysis.claims.four_bit.figures import FIGURES
from analysis.curves.budget import parse_budget
from analysis.curves.scaling import scaling_curves
from analysis.curves.settings import with_recipes
from analysis.documents.report import metrics_of
from analysis.figures.strips import optimal_figure
from kbit.database import find_store, item_scores_of
from orchestrator.store.reading import mark_screened, read_results

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from analysis.noise.bootstrap import ItemScores

BIT_OPTIMAL = "bit-optimal"


class StudyResults:
    """What a study measured. It is read when it is first asked for, and then kept: open it again to
    see what a running sweep has added.

    metric, in every method: "zero_shot" (mean accuracy), "cross_entropy" (nats a token) or
    "perplexity"; axis, what counts as size: "total", "quantized" or "nominal" bits; task: a task,
    task set or corpus (None: what most experiments were scored on). Unknown names raise ValueError.
    """

    def __init__(self, db: str | None) -> None:
        self._store = find_store(db)
        self.url = self._store.url

    @cached_property
    def _rows(self) -> pd.DataFrame:
        return mark_screened(read_results(self._store), self._store)

    @property
    def _scores(self) -> ItemScores:
        return item_scores_of(self._store)

    def results(self, family: str | None = None) -> pd.DataFrame:
        """Every stored metric, a row each: the columns of the flat view `results`, and `recipe`."""
        if family is None:
            return with_recipes(self._rows)
        check_family(self._rows, family)
        rows = self._rows[self._rows["family"] == family]
        return with_recipes(rows.reset_index(drop=True))

    def optimal(
        self,
        budget: str | None = None,
        family: str | None = None,
        metric: str = "zero_shot",
        axis: str = "total",
        task: str | None = None,
    ) -> pd.DataFrame:
        """The best setting, with its lead over the best of another precision and how sure that is.

        budget: "4GiB", "300KiB", or bits: a row a family. None: a row for each of a grid of
        budgets over which curves overlap.
        """
        rows = self.results(family)
        if budget is None:
            return optimal_table(rows, None, metric, axis, task, scores=self._scores)
        bits = parse_budget(budget)
        answers = optimal(rows, bits, family, metric, axis, task, scores=self._scores)
        return pd.DataFrame([answer.as_row() for answer in answers])

    def curves(
        self, metric: str = "zero_shot", axis: str = "total", task: str | None = None
    ) -> pd.DataFrame:
        """The scaling curves, a row a point: family, setting (its label), bits_a_weight, model,
        n_params, size (bits), value, stderr (NaN: unknown)."""
        parts = [
            pd.DataFrame(
                {
                    "family": curve.family,
                    "setting": curve.setting.label,
                    "bits_a_weight": curve.setting.bits,
                    "model": curve.models,
                    "n_params": curve.n_params,
                    "size": curve.bits,
                    "value": curve.value,
                    "stderr": curve.stderr,
                }
            )
            for curve in scaling_curves(self._rows, metric, axis, task)
        ]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    @property
    def figures(self) -> tuple[str, ...]:
        """The names that `figure` knows."""
        return (BIT_OPTIMAL, *FIGURES)

    def figure(self, name: str = BIT_OPTIMAL, axis: str = "total") -> go.Figure:
        """ "bit-optimal": which precision is best at which budget; or a figure of the paper, by its
        name or a part of it that no other has. Raises ValueError for other names, and where the
        results lack what the figure shows."""
        found = [known for known in self.figures if name in known]
        if name in self.figures:
            found = [name]
        if len(found) != 1:
            raise ValueError(f"{name!r}: figures are {', '.join(found or self.figures)}")
        if found[0] == BIT_OPTIMAL:
            return self._bit_optimal(axis)
        return FIGURES[found[0]](self._rows, axis=axis)

    def _bit_optimal(self, axis: str) -> go.Figure:
        return optimal_figure(self._rows, metrics_of(self._rows), axis, scores=self._scores)
