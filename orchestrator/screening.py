"""The first stage of an adaptive sweep: a small sample of every experiment, then who is dropped."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import groupby

from sqlalchemy import select

from evaluation.perplexity import perplexity_protocol
from orchestrator.adaptive import CONFIDENCE, Sample, dominated
from orchestrator.errors import InputError
from orchestrator.experiment import SAMPLE_METRIC, Experiment, Protocol
from orchestrator.grid import Plan
from orchestrator.item_scores import unpack_scores
from orchestrator.job import Job, JobResult
from orchestrator.provenance import here
from orchestrator.schema import AttemptRow, ExperimentRow, ItemScoresRow, ProtocolRow
from orchestrator.spec import Sweep
from orchestrator.store import Store

SAMPLE_TOKENS, SAMPLE_CONTEXT = 4096, 256  # many short windows: their spread gives the confidence
REASON = (
    "dropped after the sample: at every budget it bears on, another setting is better "
    f"(confidence {CONFIDENCE:g})"
)


def sample_plan(plan: Plan, sweep: Sweep) -> Plan:
    """The plan with a sample of the sweep's first corpus in place of every protocol.

    It is read in windows of SAMPLE_CONTEXT tokens, or of the sweep's context where that is shorter.
    Raises InputError when the sweep has no corpus.
    """
    if not sweep.corpora:
        raise InputError(f"{sweep.name}: strategy: adaptive samples a corpus; give corpora")
    corpus = sweep.corpora[0]
    samples = {}
    for name, entry in {e.model.name: e.model for e in plan.experiments}.items():
        context = min(sweep.context or entry.context or SAMPLE_CONTEXT, SAMPLE_CONTEXT)
        settings = perplexity_protocol(corpus.name, context, SAMPLE_TOKENS, corpus.local_copy)
        task = settings["corpus"]
        samples[name] = [Protocol(task, "sample", settings, corpus.source, corpus.local_copy)]
    return replace(plan, protocols=samples)


def drop(plan: Plan, samples: Plan, store: Store) -> set[str]:
    """Ids of the experiments that their sample rules out; each is recorded as dropped, once."""
    losses = _stored_samples(store, {p.id for asked in samples.protocols.values() for p in asked})
    known = [e for e in plan.experiments if e.id in losses]
    out: set[str] = set()
    for _, group in groupby(sorted(known, key=_comparable(losses)), key=_comparable(losses)):
        out |= dominated([_sample(e, *losses[e.id]) for e in group])
    recorded = _recorded(store)
    new = [e for e in known if e.id in out - recorded]
    results = [
        JobResult(Job(e, [], "", 0, "screen"), "dropped", error=REASON, **here()) for e in new
    ]
    for start in range(0, len(results), 1000):
        store.record(*results[start : start + 1000])
    return out


def _comparable(losses: dict):
    """Samples are compared within a family, over the same windows."""
    return lambda e: (e.model.family, len(losses[e.id][1]))


def _sample(experiment: Experiment, bits: int, scores) -> Sample:
    setting = json.dumps(experiment.config.as_dict(), sort_keys=True)
    return Sample(experiment.id, setting, float(bits), scores)


def _stored_samples(store: Store, protocols: set[str]) -> dict:
    """Experiment id -> (total bits, loss of each window)."""
    query = (
        select(ExperimentRow.id, ExperimentRow.total_bits, ItemScoresRow.scores)
        .join(ItemScoresRow, ItemScoresRow.experiment == ExperimentRow.number)
        .join(ProtocolRow, ProtocolRow.number == ItemScoresRow.protocol)
        .where(ProtocolRow.id.in_(protocols), ItemScoresRow.metric == SAMPLE_METRIC)
    )
    with store.reading() as connection:
        return {id_: (bits, unpack_scores(s)) for id_, bits, s in connection.execute(query)}


def _recorded(store: Store) -> set[str]:
    query = select(ExperimentRow.id).join(AttemptRow, AttemptRow.experiment == ExperimentRow.number)
    with store.reading() as connection:
        return set(connection.scalars(query.where(AttemptRow.status == "dropped")))
