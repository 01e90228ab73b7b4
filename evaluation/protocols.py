"""What scores depend on besides the model: the protocol of a task and of a corpus.

Light to import: a sweep is planned without what scores it.
"""

from __future__ import annotations

from typing import Any

from evaluation.tasks.data import data_version
from evaluation.tasks.definitions import harness_in_ids
from evaluation.tasks.index import task_config
from evaluation.text.corpora import corpus_name, corpus_version


def task_protocol(
    name: str, limit: int | None = None, data_files: str | None = None
) -> dict[str, Any]:
    """What a task's scores depend on besides the model; loads no data set. Raises ValueError for
    unknown and generation tasks, local data that does not fit, and a limit below 1."""
    if limit is not None and limit < 1:
        raise ValueError(f"task {name}: limit {limit} must be at least 1 (or absent, for all)")
    config = task_config(name)
    return {
        "task": name,
        "task_version": (config.get("metadata") or {}).get("version"),
        "data": data_version(name, data_files),
        "limit": limit,
        "num_fewshot": config.get("num_fewshot") or 0,
        "harness": harness_in_ids(name),
    }


def perplexity_protocol(
    corpus: str,
    context: int | None = None,
    max_tokens: int | None = None,
    data_files: str | None = None,
    bos: bool = False,
) -> dict[str, Any]:
    """What the metrics depend on besides model and tokenizer; tokenizes nothing. `bos`: whether
    windows begin with it. Raises ValueError for an unknown corpus and for limits below 1."""
    if bos and context == 1:
        raise ValueError(f"perplexity on {corpus}: bos: a window of 1 token has no room for it")
    for key, value in (("context", context), ("max_tokens", max_tokens)):
        if value is not None and value < 1:
            raise ValueError(f"perplexity on {corpus}: {key} {value} must be at least 1")
    begins = {"bos": True} if bos else {}
    return begins | {
        "corpus": corpus_name(corpus),
        "data": corpus_version(corpus, data_files),
        "context": context,
        "max_tokens": max_tokens,
        "windows": "non-overlapping, every token but the first of the stream",
    }
