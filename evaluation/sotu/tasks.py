"""The embedded zero-shot tasks as files that lm-evaluation-harness reads: JSONL data and YAML.

They are built on first use and kept in a cache directory: `$KBIT_CACHE`, else `~/.cache/kbit`.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from evaluation.data.cache_folder import cache_directory
from evaluation.shipped import SHIPPED

if TYPE_CHECKING:
    from evaluation.sotu.items import Item

log = logging.getLogger(__name__)
TASKS_VERSION = 1.0
CONTEXT = 256  # of the embedded models, in tokens
TOKENIZER = SHIPPED / "models" / "tokenizer" / "tokenizer.json"

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

# sha256 of the JSONL files that the package's text gives, so that a sweep is planned before they
# are built, which takes seconds. Files that differ are refused.
_KNOWN_HASHES = {
    "0.1.2": {
        "sotu_last_word": "996315d7efd4e06400643e61341c4ad3118c4cbe7d674dec4e984cad61039eb9",
        "sotu_continuation": "6c8b3cfdf91cf3a54388b4cee2f1993c77d309a4f53a38b7c80349cb00d56381",
        "sotu_blank": "c4581b48382bc9849cafe18a3d372fdedc448d844a22ca62f4763629893a1da5",
        "sotu_corruption": "33e0980040c22b8db5684d6f0f7de9fe1bfeaac91ef3afbcb09e572cbc55d69c",
    }
}


def config_of(name: str) -> dict[str, Any]:
    """A task as the harness configures it, but for where its data lies."""
    return {
        "task": name,
        "dataset_path": "json",
        "test_split": "test",
        "target_delimiter": "" if _CONFIGS[name]["doc_to_target"] == "ending" else " ",
        "num_fewshot": 0,
        "metadata": {"version": TASKS_VERSION},
        **_CONFIGS[name],
    }


def task_directory() -> Path:
    """The folder with NAME.jsonl, NAME.yaml of each task and sha256.json, built if missing, again
    if it is damaged.

    Safe beside other processes: whoever finishes first wins, the files are the same. Raises
    ValueError if an item does not fit the embedded models' context.
    """
    from evaluation.sotu.items import build_items

    root = cache_directory() / "tasks"
    target = root / f"sotu-{_build_key(root)}"
    if target.exists():
        if _is_whole(target):
            return target
        log.warning("%s is damaged and is built again", target)
        shutil.rmtree(target, ignore_errors=True)
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


@cache
def _is_whole(folder: Path) -> bool:
    try:
        hashes = json.loads((folder / "sha256.json").read_text())
        for name, digest in hashes.items():
            data = (folder / f"{name}.jsonl").read_bytes()
            config = yaml.safe_load((folder / f"{name}.yaml").read_text())
            if hashlib.sha256(data).hexdigest() != digest or config["task"] != name:
                return False
        return bool(hashes)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        return False


def task_data_hashes() -> dict[str, str]:
    """sha256 of each task's JSONL file: what the scores depend on."""
    if (known := _KNOWN_HASHES.get(version("sotu"))) is not None:
        return known
    hashes: dict[str, str] = json.loads((task_directory() / "sha256.json").read_text())
    return hashes


def _build_key(root: Path) -> str:
    """Changes with the text, with the code that cuts it, and with the paths the YAML files name."""
    from evaluation.sotu import corpus as sotu_corpus
    from evaluation.sotu import items as sotu_items
    from evaluation.sotu import text as sotu_text

    sources = [inspect.getsource(m) for m in (sotu_corpus, sotu_items, sotu_text)]
    parts = [version("sotu"), str(root), json.dumps(_CONFIGS), *sources]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _write(tasks: dict[str, list[Item]], folder: Path, final_folder: Path) -> None:
    hashes = {}
    _check_lengths(tasks)
    for name, items in tasks.items():
        data = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items).encode()
        hashes[name] = hashlib.sha256(data).hexdigest()
        data_files = {"test": str(final_folder / f"{name}.jsonl")}
        config = config_of(name) | {"dataset_kwargs": {"data_files": data_files}}
        (folder / f"{name}.jsonl").write_bytes(data)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    if hashes != _KNOWN_HASHES.get(version("sotu"), hashes):
        raise ValueError("the tasks cut from the sotu package are not those that its version has")
    (folder / "sha256.json").write_text(json.dumps(hashes, indent=1) + "\n")


def _check_lengths(tasks: dict[str, list[Item]]) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(TOKENIZER))  # of bytes: a text has no more tokens
    for name, items in tasks.items():
        texts = (text for item in items for text in _texts_of(item))
        long = [text for text in texts if len(text.encode()) > CONTEXT]
        encoded = tokenizer.encode_batch(long, add_special_tokens=False)
        longest = max((len(encoding.ids) for encoding in encoded), default=0)
        if longest > CONTEXT:
            raise ValueError(f"{name}: an item has {longest} tokens, the context is {CONTEXT}")


def _texts_of(item: Item) -> Iterable[str]:
    """Every text of an item that a model reads."""
    if "ending" in item:
        return [item["context"] + item["ending"]]
    if "contexts" in item:
        return [f"{context} {item['continuation']}" for context in item["contexts"]]
    return [f"{item['context']} {choice}" for choice in item["choices"]]
