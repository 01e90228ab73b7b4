"""A task's requests once they are built and tokenized, and what its metrics need besides scores.

Building and tokenizing a task takes longer than scoring it on a small model. It is done once for a
tokenizer, kept on disk, and shared by all processes; in memory its encoder has those it used
lately. Answers are never kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from lm_eval.api.metrics import mean, perplexity
from lm_eval.api.task import ConfigurableTask

from evaluation.engine.encoding import Encoder
from evaluation.engine.scoring import Scores
from evaluation.engine.sequences import Sequences
from evaluation.sotu.tasks import cache_directory
from evaluation.tasks.index import HARNESS
from evaluation.tasks.loaded_task import LoadedTask
from quantizers.cache import Arrays, kept

FORMAT = 1  # of the files; part of their names
NO_ANSWER = -100  # the harness's mark for an item without a right choice
# In the order in which the harness gives them.
CHOICE_METRICS = {"acc": mean, "acc_norm": mean, "acc_bytes": mean}
TEXT_METRICS = {"perplexity": perplexity, "acc": mean}


@dataclass(frozen=True, eq=False)
class TaskRequests:
    """n items with r requests: item i has requests items[i] .. items[i+1]-1 (int64 [n+1]).

    metrics: their names in the harness's order. Where items are choices (else one text each), gold
    int64 [n] is the right one, and characters and bytes float64 [r] are the choices' lengths.
    """

    sequences: Sequences
    items: np.ndarray
    metrics: tuple[str, ...]
    gold: np.ndarray
    characters: np.ndarray
    bytes: np.ndarray

    @property
    def are_choices(self) -> bool:
        return len(self.characters) > 0

    def item_scores(self, scores: Scores) -> dict[str, np.ndarray]:
        """Metric -> score of each item, float64 [n], as `process_results` of the harness has it.

        The first of equally likely choices counts as chosen; nan counts as most likely.
        """
        if not self.are_choices:
            assert scores.greedy is not None
            by_name = {"perplexity": scores.logprob, "acc": scores.greedy.astype(np.float64)}
            return {name: by_name[name] for name in self.metrics}
        lengths = {"acc": 1.0, "acc_norm": self.characters, "acc_bytes": self.bytes}
        with np.errstate(all="ignore"):
            return {
                name: (self._chosen(scores.logprob / lengths[name]) == self.gold).astype(np.float64)
                for name in self.metrics
            }

    def _chosen(self, values: np.ndarray) -> np.ndarray:
        """The largest of each item's values (float64 [r]), counted within the item, int64 [n]."""
        counts = np.diff(self.items)
        table = np.full((len(counts), counts.max(initial=1)), -np.inf)
        table[np.arange(table.shape[1]) < counts[:, None]] = values
        return table.argmax(axis=1)


def task_requests(
    encoder: Encoder, protocol: dict[str, Any], load: Callable[[], LoadedTask]
) -> TaskRequests | None:
    """The requests of the task that `load` loads, called only where no process has done it before.

    None where the task's metrics are not those of choices or of one text with plain accuracy or
    perplexity: its own code must then judge every item.
    """
    parts = json.dumps([FORMAT, HARNESS, encoder.fingerprint, protocol], sort_keys=True)
    key = hashlib.sha256(parts.encode()).hexdigest()[:32]

    def read_or_build() -> TaskRequests | None:
        def build() -> Arrays | None:
            return _arrays(load(), encoder)

        path = cache_directory() / "requests" / f"{key}.npz"
        # A tokenizer written in Python is known by its identity in this process alone.
        arrays = kept(path, build) if encoder.tokenizer.is_fast else build()
        return None if arrays is None else _from_arrays(arrays)

    requests: TaskRequests | None = encoder.kept.get(key, read_or_build)
    return requests


def aggregation_of(metric: str) -> Callable[[Any], float]:
    """How the harness makes one number of the items' scores of a metric known here."""
    return {**CHOICE_METRICS, **TEXT_METRICS}[metric]


def _from_arrays(arrays: Arrays) -> TaskRequests:
    sequences = Sequences(arrays["tokens"], arrays["starts"], arrays["scored"])
    names = ("gold", "characters", "bytes")
    metrics = tuple(arrays["metrics"].tolist())
    return TaskRequests(sequences, arrays["items"], metrics, *(arrays[name] for name in names))


def _arrays(loaded: LoadedTask, encoder: Encoder) -> Arrays | None:
    """What is kept of a task; None where its own code must judge the items."""
    judged = _judge(loaded)
    if judged is None:
        return None
    sequences = encoder.pairs([request.args for request in loaded.requests])
    smallest = np.min_scalar_type(int(sequences.tokens.max(initial=0)))
    items = [0, *(where.stop for _, where in loaded.items)]
    return {
        "tokens": sequences.tokens.astype(smallest),
        "starts": sequences.starts,
        "scored": sequences.scored,
        "items": np.array(items, dtype=np.int64),
        **judged,
    }


def _judge(loaded: LoadedTask) -> Arrays | None:
    """Metrics, right answers and lengths of a task that the harness judges by its standard code."""
    task = loaded.task
    known = {"multiple_choice": CHOICE_METRICS, "loglikelihood": TEXT_METRICS}
    metrics = known.get(task.OUTPUT_TYPE or "", {})
    aggregations = task.aggregation()
    standard = (
        isinstance(task, ConfigurableTask)
        and type(task).process_results is ConfigurableTask.process_results
        and not callable(task.config.process_results)
        and not task.multiple_target
        and all(metrics.get(name) is how for name, how in aggregations.items())
    )
    if not standard:
        return None
    gold, characters, n_bytes = [], [], []
    if task.OUTPUT_TYPE == "multiple_choice":
        for document, where in loaded.items:
            choices = task.doc_to_choice(document)
            answer = (
                task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
            )
            if isinstance(answer, str):
                answer = choices.index(answer) if answer in choices else NO_ANSWER
            if not isinstance(answer, Integral) or where.stop - where.start != len(choices):
                return None
            gold.append(int(answer) if answer < len(choices) else NO_ANSWER)
            characters += [len(choice) for choice in choices]
            n_bytes += [len(choice.encode()) for choice in choices]
    return {
        "metrics": np.array([name for name in metrics if name in aggregations]),
        "gold": np.array(gold, dtype=np.int64),
        "characters": np.array(characters, dtype=np.float64),
        "bytes": np.array(n_bytes, dtype=np.float64),
    }
