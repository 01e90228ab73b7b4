"""Worker-hours a sweep will take, from what earlier rows of its database took."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
from sqlalchemy import func, select

from orchestrator.experiment import SAMPLE_METRIC, Experiment, Protocol
from orchestrator.schema import ExperimentRow, MeasurementRow
from orchestrator.store import Store

_SECONDS = ["seconds_load", "seconds_quantize", "seconds_score"]


@dataclass(frozen=True)
class Estimate:
    """`hours` of one worker, from `measurements` measured ones; `scaled`: models never run."""

    hours: float
    measurements: int
    scaled: int


def estimate(store: Store, missing: Iterable[tuple[Experiment, list[Protocol]]]) -> Estimate | None:
    """Worker-hours of the missing work; None when nothing comparable was measured yet.

    A model's rate is its seconds (load, quantize, score) over its measurements. Models that were
    never run get the rate of the nearest one in size, scaled by their parameters.
    """
    rates = _rates(store)
    if rates.empty:
        return None
    hours, scaled = 0.0, set()
    for experiment, protocols in missing:
        model = experiment.model
        if model.name in rates.index:
            rate = rates.loc[model.name, "rate"]
        else:
            scaled.add(model.name)
            size = model.n_params or rates["n_params"].median()
            near = rates.loc[(rates["n_params"] / size - 1).abs().idxmin()]
            rate = near["rate"] * size / near["n_params"]
        hours += len(protocols) * float(rate) / 3600
    return Estimate(hours, int(rates["measurements"].sum()), len(scaled))


def _rates(store: Store) -> pd.DataFrame:
    """By model: n_params, measurements, rate in seconds a measurement."""
    full = MeasurementRow.metric != SAMPLE_METRIC  # an adaptive sweep's samples cost far less
    columns = select(MeasurementRow.experiment, MeasurementRow.protocol)
    pairs = columns.where(full).distinct().subquery()
    counts = (
        select(ExperimentRow.model, func.count().label("measurements"))
        .join(pairs, pairs.c.experiment == ExperimentRow.number)
        .group_by(ExperimentRow.model)
    )
    sizes = select(ExperimentRow.model, func.max(ExperimentRow.n_params).label("n_params"))
    with store.reading() as connection:
        measured = pd.read_sql(counts, connection).set_index("model")
        n_params = pd.read_sql(sizes.group_by(ExperimentRow.model), connection).set_index("model")
    attempts = store.attempts()
    attempts = attempts[attempts["stage"] == "full"]
    seconds = attempts[_SECONDS].sum(axis=1).groupby(attempts["model"]).sum()
    rates = measured.join(n_params).assign(rate=seconds / measured["measurements"])
    return rates[(rates["rate"] > 0) & rates["n_params"].notna()]
