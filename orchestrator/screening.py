"""The first stages of an adaptive sweep: samples of the experiments, then who is dropped.

Every experiment is scored on a few tokens of the first corpus, those near the best by loss on a few
items of each task. The corpora are then scored in full for what may win by loss, the tasks for what
may win by accuracy (orchestrator.adaptive); the rest is dropped.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from sqlalchemy import select

from evaluation.task_sets import TASK_SETS
from orchestrator.adaptive import (
    CONFIDENCE,
    Sample,
    may_win_by_accuracy,
    may_win_by_loss,
    near_by_loss,
)
from orchestrator.errors import InputError
from orchestrator.experiment import SAMPLE, Asked, Experiment
from orchestrator.grid import Plan
from orchestrator.item_scores import unpack_scores
from orchestrator.job import Job, JobResult
from orchestrator.outcome import Stage, Status
from orchestrator.provenance import here
from orchestrator.schema import AttemptRow, ExperimentRow, ItemScoresRow, ProtocolRow
from orchestrator.spec import Sweep
from orchestrator.store import Store

SAMPLE_TOKENS, SAMPLE_CONTEXT = 4096, 256  # many short windows: their spread gives the confidence
SAMPLE_ITEMS = 50  # of each task
BY_LOSS = (
    f"by loss another setting is better at every budget it bears on ({CONFIDENCE:g} confidence)"
)
BY_ACCURACY = "by accuracy it leads significantly in the sample at no budget it bears on"


@dataclass(frozen=True)
class Verdict:
    """The ids of the experiments that are scored in full: on corpora, on tasks."""

    corpora: set[str]
    tasks: set[str]


def corpus_sample(plan: Plan, sweep: Sweep) -> Plan:
    """The plan with a sample of the sweep's first corpus in place of every protocol.

    It is read in windows of SAMPLE_CONTEXT tokens, or of the sweep's context where that is shorter.
    Raises InputError when the sweep has no corpus.
    """
    if not sweep.corpora:
        raise InputError(f"{sweep.name}: strategy: adaptive samples a corpus; give corpora")
    samples = {}
    for name in {e.model.name for e in plan.experiments}:
        first = next(p for p in plan.protocols[name] if p.kind == "corpus")
        context = min(first.settings["context"] or SAMPLE_CONTEXT, SAMPLE_CONTEXT)
        read = first.settings | {"context": context, "max_tokens": SAMPLE_TOKENS}
        samples[name] = [replace(first, kind="sample", settings=read)]
    return replace(plan, protocols=samples)


def task_sample(plan: Plan, samples: Plan, sweep: Sweep, store: Store) -> Plan:
    """What is near the best by loss, with a sample of each task in place of every protocol.

    No protocols where the tasks have hardly more items than a sample.
    """
    small = sweep.limit is not None and sweep.limit <= SAMPLE_ITEMS
    protocols = {
        name: [
            replace(p, kind="sample", settings=p.settings | {"limit": SAMPLE_ITEMS})
            for p in asked
            if p.kind == "task" and not small
        ]
        for name, asked in plan.protocols.items()
    }
    rule = partial(near_by_loss, share=_share_of_tokens(sweep))
    near = _chosen(plan, samples, _stored(store, _ids(samples)), rule)
    experiments = [e for e in plan.experiments if e.id in near]
    return replace(plan, experiments=experiments, protocols=protocols)


def judge(plan: Plan, corpus: Plan, tasks: Plan, sweep: Sweep, store: Store) -> Verdict:
    """Whom the samples leave to score in full; what is dropped is recorded, once."""
    of_tokens = _share_of_tokens(sweep)
    stored = _stored(store, _ids(corpus) | _ids(tasks))
    by_loss = _chosen(plan, corpus, stored, partial(may_win_by_loss, share=of_tokens))
    by_accuracy = near = {e.id for e in tasks.experiments}
    if any(tasks.protocols.values()):
        share = SAMPLE_ITEMS / sweep.limit if sweep.limit else 0.0
        rule = partial(may_win_by_accuracy, share_of_windows=of_tokens, share=share)
        by_accuracy = set()
        for task_set in _task_sets(sweep.task_names()):
            by_accuracy |= _chosen(plan, corpus, stored, rule, task_set)
    elif not sweep.tasks:
        by_accuracy = set()
    verdict = Verdict(by_loss, by_accuracy)
    _record(plan, verdict, near, bool(sweep.tasks), store)
    return verdict


def in_full(plan: Plan, verdict: Verdict) -> list[Asked]:
    """What the verdict leaves of the plan."""
    chosen = {"corpus": verdict.corpora, "task": verdict.tasks}
    asked = [(e, [p for p in ps if e.id in chosen[p.kind]]) for e, ps in plan.asked]
    return [(experiment, protocols) for experiment, protocols in asked if protocols]


def _share_of_tokens(sweep: Sweep) -> float:
    """Which share of the first corpus the sample is; 0 where its size is not known."""
    tokens = sweep.corpora[0].max_tokens
    return min(1.0, SAMPLE_TOKENS / tokens) if tokens else 0.0


def _task_sets(tasks: Collection[str]) -> list[dict[str, str]]:
    """Task -> metric of each mean accuracy that can be asked for; without any, of all tasks."""
    return [s for s in TASK_SETS.values() if s.keys() <= set(tasks)] or [
        dict.fromkeys(tasks, "acc")
    ]


def _chosen(
    plan: Plan,
    corpus: Plan,
    stored: tuple[dict[str, float], dict[str, dict]],
    rule: Callable[[list[Sample]], set[str]],
    task_set: dict[str, str] | None = None,
) -> set[str]:
    """Ids that a rule chooses among the samples of each family; what has no sample is chosen."""
    bits, scores = stored
    fields: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    chosen = set()
    for experiment in plan.experiments:
        found = scores.get(experiment.id, {})
        (protocol,) = corpus.protocols[experiment.model.name]
        losses = found.get((protocol.task, "cross_entropy"))
        if losses is None:
            chosen.add(experiment.id)
            continue
        errors = _errors([found.get(pair) for pair in (task_set or {}).items()])
        setting = json.dumps(experiment.setting.identity(), sort_keys=True)
        sample = Sample(experiment.id, setting, bits[experiment.id], losses, errors)
        fields[experiment.model.family, len(losses)].append(sample)  # over the same windows
    return chosen.union(*[rule(samples) for samples in fields.values()])


def _errors(scores: list[np.ndarray | None]) -> np.ndarray | None:
    """1 - accuracy of the first, second ... items of the tasks, mean over tasks."""
    known = [s for s in scores if s is not None]
    if not known or len(known) < len(scores):
        return None
    n = min(len(s) for s in known)
    return 1 - np.mean([s[:n] for s in known], axis=0)


def _ids(plan: Plan) -> set[str]:
    return {p.id for asked in plan.protocols.values() for p in asked}


def _stored(store: Store, protocols: Iterable[str]) -> tuple[dict[str, float], dict[str, dict]]:
    """Experiment id -> total bits; and -> (task, metric) -> sampled scores of each item."""
    query = (
        select(
            ExperimentRow.id,
            ExperimentRow.total_bits,
            ProtocolRow.task,
            ItemScoresRow.metric,
            ItemScoresRow.scores,
        )
        .join(ItemScoresRow, ItemScoresRow.experiment == ExperimentRow.number)
        .join(ProtocolRow, ProtocolRow.number == ItemScoresRow.protocol)
        .where(ProtocolRow.id.in_(list(protocols)))
    )
    bits: dict[str, float] = {}
    scores: dict[str, dict] = defaultdict(dict)
    with store.reading() as connection:
        for id_, total, task, metric, packed in connection.execute(query):
            bits[id_] = float(total or 0)
            scores[id_][task, metric.removesuffix(SAMPLE)] = unpack_scores(packed)
    return bits, scores


def _record(plan: Plan, verdict: Verdict, near: set[str], tasks: bool, store: Store) -> None:
    """Store for each experiment at which stage what was dropped, and why; once."""
    recorded = _recorded(store)
    results = []
    for experiment in plan.experiments:
        reason = _reason(experiment, verdict, near, tasks)
        if reason and (experiment.id, *reason) not in recorded:
            stage, error = reason
            job = Job(experiment, [], "", 0, stage)
            results.append(JobResult(job, Status.DROPPED, error=error, **here()))
    for start in range(0, len(results), 1000):
        store.record(*results[start : start + 1000])


def _reason(
    experiment: Experiment, verdict: Verdict, near: set[str], tasks: bool
) -> tuple[Stage, str] | None:
    """(stage, why) of what was dropped; None where all is scored."""
    id_ = experiment.id
    if id_ in verdict.tasks or not tasks:
        return None if id_ in verdict.corpora else (Stage.SCREEN, f"corpora dropped: {BY_LOSS}")
    stage, why = (Stage.SCREEN_TASKS, BY_ACCURACY) if id_ in near else (Stage.SCREEN, BY_LOSS)
    if id_ in verdict.corpora:
        return stage, f"tasks dropped: {why}"
    return stage, f"dropped: {BY_LOSS}" + (f"; {why}" if why != BY_LOSS else "")


def _recorded(store: Store) -> set[tuple[str, Stage, str | None]]:
    query = (
        select(ExperimentRow.id, AttemptRow.stage, AttemptRow.error)
        .join(AttemptRow, AttemptRow.experiment == ExperimentRow.number)
        .where(AttemptRow.status == Status.DROPPED)
    )
    with store.reading() as connection:
        return {(id_, stage, error) for id_, stage, error in connection.execute(query)}
