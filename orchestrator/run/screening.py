"""The first stage of an adaptive sweep: a sample of every experiment, then who is dropped.

Every experiment is scored on a few windows, spread over the first corpus. The corpora are then
scored in full for what may win by loss, the tasks for what is near enough by loss to win by
accuracy (orchestrator.run.adaptive), on any axis of size; the rest is dropped.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

from sqlalchemy import select

from orchestrator.errors import InputError
from orchestrator.run.adaptive import AXES, CONFIDENCE, NEAR, Sample, may_win_by_loss, near_by_loss
from orchestrator.run.provenance import here
from orchestrator.store.item_scores import unpack_scores
from orchestrator.store.schema import AttemptRow, ExperimentRow, ItemScoresRow, ProtocolRow
from orchestrator.store.store import Store
from orchestrator.study.experiment import Asked, Experiment
from orchestrator.study.grid import Plan
from orchestrator.study.job import Job, JobResult
from orchestrator.study.outcome import Stage, Status
from orchestrator.study.spec import Sweep

# Many short windows: their spread gives the confidence.
SAMPLE_WINDOWS, SAMPLE_CONTEXT = 16, 256
BY_LOSS = (
    f"by loss another setting is better at every budget it bears on ({CONFIDENCE:g} confidence)"
)
FAR = f"by loss it is more than {NEAR:g} of what precision costs behind the best"


@dataclass(frozen=True)
class Verdict:
    """The ids of the experiments that are scored in full: on corpora, on tasks."""

    corpora: set[str]
    tasks: set[str]


def corpus_sample(plan: Plan, sweep: Sweep) -> Plan:
    """The plan with a sample of the sweep's first corpus in place of every protocol.

    Its windows have SAMPLE_CONTEXT tokens, or the sweep's context where that is shorter. Raises
    InputError when the sweep has no corpus.
    """
    if not sweep.corpora:
        raise InputError(f"{sweep.name}: strategy: adaptive samples a corpus; give corpora")
    samples = {}
    for name in {e.model.name for e in plan.experiments}:
        first = next(p for p in plan.protocols[name] if p.kind == "corpus")
        context = min(first.settings["context"] or SAMPLE_CONTEXT, SAMPLE_CONTEXT)
        read = first.settings | {"context": context, "spread": SAMPLE_WINDOWS}
        samples[name] = [replace(first, kind="sample", settings=read)]
    return replace(plan, protocols=samples)


def judge(plan: Plan, corpus: Plan, sweep: Sweep, store: Store) -> Verdict:
    """Whom the samples leave to score in full; what is dropped is recorded, once."""
    samples = _samples(plan, corpus, store)
    share = _share_of_windows(sweep)
    verdict = Verdict(
        _chosen(plan, samples, partial(may_win_by_loss, share=share)),
        _chosen(plan, samples, partial(near_by_loss, share=share)) if sweep.tasks else set(),
    )
    _record(plan, verdict, bool(sweep.tasks), store)
    return verdict


def in_full(plan: Plan, verdict: Verdict) -> list[Asked]:
    """What the verdict leaves of the plan."""
    chosen = {"corpus": verdict.corpora, "task": verdict.tasks}
    asked = [(e, [p for p in ps if e.id in chosen[p.kind]]) for e, ps in plan.asked]
    return [(experiment, protocols) for experiment, protocols in asked if protocols]


def _share_of_windows(sweep: Sweep) -> float:
    """Which share of the first corpus the sample is; 0 where its size is not known."""
    tokens = sweep.corpora[0].max_tokens
    return min(1.0, SAMPLE_WINDOWS * SAMPLE_CONTEXT / tokens) if tokens else 0.0


def _samples(plan: Plan, corpus: Plan, store: Store) -> dict[str, Sample]:
    """Experiment id -> its sample, where it has one."""
    protocols = {p.id for asked in corpus.protocols.values() for p in asked}
    stored = _stored(store, protocols)
    samples = {}
    for experiment in plan.experiments:
        if experiment.id in stored:
            setting = experiment.setting
            name = json.dumps(setting.identity(), sort_keys=True)
            samples[experiment.id] = Sample(
                experiment.id,
                experiment.model.name,
                name,
                float(setting.bits),
                setting.is_baseline,
                setting.scope,
                *stored[experiment.id],
            )
    return samples


def _chosen(
    plan: Plan, samples: dict[str, Sample], rule: Callable[[list[Sample]], set[str]]
) -> set[str]:
    """Ids that a rule chooses among the samples of each family; what has no sample is chosen."""
    fields: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    for experiment in plan.experiments:
        if sample := samples.get(experiment.id):  # compared over the same windows
            fields[experiment.model.family, len(sample.losses)].append(sample)
    without = {e.id for e in plan.experiments} - samples.keys()
    return without.union(*[rule(field) for field in fields.values()])


def _stored(store: Store, protocols: Iterable[str]) -> dict[str, tuple]:
    """Experiment id -> its size on each axis, and the loss of each sampled window."""
    sizes = [ExperimentRow.__table__.c[f"{axis}_bits"] for axis in AXES]
    query = (
        select(ExperimentRow.id, ItemScoresRow.scores, *sizes)
        .join(ItemScoresRow, ItemScoresRow.experiment == ExperimentRow.number)
        .join(ProtocolRow, ProtocolRow.number == ItemScoresRow.protocol)
        .where(ProtocolRow.id.in_(list(protocols)), ExperimentRow.total_bits.is_not(None))
    )
    with store.reading() as connection:
        rows = connection.execute(query).all()
    return {
        id_: (dict(zip(AXES, map(float, bits), strict=True)), unpack_scores(packed))
        for id_, packed, *bits in rows
    }


def _record(plan: Plan, verdict: Verdict, tasks: bool, store: Store) -> None:
    """Store for each experiment what was dropped, why, and on which axes that was asked; once."""
    recorded = _recorded(store)
    results = []
    for experiment in plan.experiments:
        reason = _reason(experiment, verdict, tasks)
        if reason and (experiment.id, reason) not in recorded:
            job = Job(experiment, [], "", 0, Stage.SCREEN)
            result = JobResult(job, Status.DROPPED, error=reason, axes=",".join(AXES), **here())
            results.append(result)
    for start in range(0, len(results), 1000):
        store.record(*results[start : start + 1000])


def _reason(experiment: Experiment, verdict: Verdict, tasks: bool) -> str | None:
    """Why something was dropped; None where all is scored."""
    id_ = experiment.id
    if id_ not in verdict.corpora and (id_ in verdict.tasks or not tasks):
        return f"corpora dropped: {BY_LOSS}"
    if id_ in verdict.corpora:
        return f"tasks dropped: {FAR}" if tasks and id_ not in verdict.tasks else None
    return f"dropped: {BY_LOSS}; {FAR}"


def _recorded(store: Store) -> set[tuple[str, str | None]]:
    query = (
        select(ExperimentRow.id, AttemptRow.error)
        .join(AttemptRow, AttemptRow.experiment == ExperimentRow.number)
        .where(AttemptRow.status == Status.DROPPED)
    )
    with store.reading() as connection:
        return {(id_, error) for id_, error in connection.execute(query)}
