"""Worker-hours a sweep will take, from what earlier rows of its database took."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

import pandas as pd
from sqlalchemy import case, func, select

from orchestrator.store.schema import AttemptRow, ExperimentRow, MeasurementRow, ProtocolRow
from orchestrator.store.store import Store
from orchestrator.study.experiment import SAMPLE, Experiment, Protocol
from orchestrator.study.models import ModelEntry
from orchestrator.study.outcome import Stage, Status

# What an item of the papers' five tasks costs, on average, with shared contexts read once. It
# weighs tasks against corpora, and against tasks of another size; for the same ones it cancels.
ITEM_TOKENS = 110


@dataclass(frozen=True)
class Rate:
    """A model's seconds: `an_experiment` to load and quantize, `a_token` to score."""

    n_params: float
    an_experiment: float
    a_token: float


@dataclass(frozen=True)
class Rates:
    """What `measurements` earlier ones took.

    `of`: (model, compute dtype) -> its rate. `tokens`: protocol id -> about how many it reads.
    """

    of: dict[tuple[str, str], Rate]
    tokens: dict[str, float]
    measurements: int


@dataclass(frozen=True)
class Estimate:
    """`seconds` of one worker for each experiment; `scaled`: models never run in that dtype."""

    seconds: list[float]
    scaled: int

    @property
    def hours(self) -> float:
        return sum(self.seconds) / 3600


def measured_rates(store: Store) -> Rates:
    """From attempts that were done in full: those lost, or scored again, say nothing of the rest.

    Raises SweepStopped when the database does not answer.
    """
    attempts = (
        select(
            ExperimentRow.number.label("experiment"),
            ExperimentRow.model,
            ExperimentRow.compute_dtype,
            ExperimentRow.n_params,
            func.count().label("attempts"),
            func.sum(AttemptRow.seconds_load + AttemptRow.seconds_quantize).label("around"),
            func.sum(AttemptRow.seconds_score).label("scoring"),
        )
        .join(AttemptRow, AttemptRow.experiment == ExperimentRow.number)
        .where(AttemptRow.status == Status.DONE, AttemptRow.stage == Stage.FULL)
        .where(AttemptRow.seconds_score > 0)
        .group_by(ExperimentRow.number)
    )
    measured = (
        select(
            MeasurementRow.experiment,
            ProtocolRow.id.label("protocol"),
            func.max(MeasurementRow.n_items).label("items"),
            func.max(case((MeasurementRow.metric == "tokens", MeasurementRow.value))).label("read"),
        )
        .join(ProtocolRow, ProtocolRow.number == MeasurementRow.protocol)
        .where(~MeasurementRow.metric.endswith(SAMPLE, autoescape=True))
        .group_by(MeasurementRow.experiment, ProtocolRow.id)
    )
    with store.reading() as connection:
        spent, sizes = pd.read_sql(attempts, connection), pd.read_sql(measured, connection)
    sizes["tokens"] = sizes["read"].astype(float).fillna(sizes["items"] * ITEM_TOKENS)
    by_experiment = sizes.groupby("experiment")["tokens"].agg(["sum", "count"])
    spent = spent.join(by_experiment, on="experiment", how="inner")
    models = spent.groupby(["model", "compute_dtype"])
    total = models[["attempts", "around", "scoring", "sum", "count"]].sum()
    rates = pd.DataFrame(
        {
            "n_params": models["n_params"].max(),
            "an_experiment": total["around"] / total["attempts"],
            "a_token": total["scoring"] / total["sum"],
        }
    ).dropna()
    return Rates(
        {key: Rate(*row) for key, *row in rates.itertuples()},
        sizes.groupby("protocol")["tokens"].max().to_dict(),
        int(total["count"].sum()),
    )


def estimate(rates: Rates, missing: Iterable[tuple[Experiment, list[Protocol]]]) -> Estimate | None:
    """Worker time of the missing work; None when nothing was measured in its compute dtype.

    Models that were never run get the rate of the nearest one in size, scaled by parameters.
    """
    of: dict[tuple[str, str], Rate] = {}
    seconds: list[float] = []
    for experiment, protocols in missing:
        model, dtype = experiment.model, experiment.compute_dtype
        rate = of.get((model.name, dtype)) or rate_of(rates, model, dtype)
        if rate is None:
            return None
        of[model.name, dtype] = rate
        others = sum(rates.tokens.values()) / len(rates.tokens)
        tokens = sum(tokens_of(protocol, rates.tokens) or others for protocol in protocols)
        seconds.append(rate.an_experiment + rate.a_token * tokens)
    return Estimate(seconds, len(of.keys() - rates.of.keys()))


def rate_of(rates: Rates, model: ModelEntry, dtype: str) -> Rate | None:
    """As measured, else that of the nearest model in size, scaled; None: nothing was measured."""
    return rates.of.get((model.name, dtype)) or _scaled(rates, model.n_params, dtype)


def _scaled(rates: Rates, n_params: int | None, dtype: str) -> Rate | None:
    known = [rate for (_, its_dtype), rate in rates.of.items() if its_dtype == dtype]
    if not known:
        return None
    size = n_params or median(rate.n_params for rate in known)
    near = min(known, key=lambda rate: abs(rate.n_params / size - 1))
    factor = size / near.n_params
    return Rate(size, near.an_experiment * factor, near.a_token * factor)


def tokens_of(protocol: Protocol, known: dict[str, float]) -> float | None:
    """About how many a protocol reads: as measured, else its limit; None: not known."""
    if protocol.id in known:
        return known[protocol.id]
    if most := protocol.settings.get("max_tokens"):
        return float(most)
    if limit := protocol.settings.get("limit"):
        return float(limit * ITEM_TOKENS)
    return None


def newest_dtype(store: Store) -> str | None:
    """The compute dtype of the newest attempt that was done; None before the first."""
    query = (
        select(ExperimentRow.compute_dtype)
        .join(AttemptRow, AttemptRow.experiment == ExperimentRow.number)
        .where(AttemptRow.status == Status.DONE)
        .order_by(AttemptRow.number.desc())
    )
    with store.reading() as connection:
        return connection.scalar(query.limit(1))
