"""Texts to measure perplexity on: named corpora, or any local text or JSONL file."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evaluation.sotu_corpus import HOLD_OUT_EVERY, heldout_addresses

# Hub data sets: load_dataset's arguments and how rows become documents.
_PILE = {"path": "EleutherAI/pile_val_test", "data_files": {"validation": "val.jsonl"}}
_WIKITEXT2 = {"path": "Salesforce/wikitext", "name": "wikitext-2-raw-v1"}
_C4 = {
    "path": "allenai/c4",
    "data_files": {"validation": "en/c4-validation.00000-of-00008.json.gz"},
}
_HUB: dict[str, tuple[dict[str, Any], str, Callable[[Any], list[str]]]] = {
    # The validation documents of the Pile that come from Common Crawl (the paper's corpus).
    "pile_cc": (
        _PILE,
        "validation",
        lambda rows: [r["text"] for r in rows if r["meta"]["pile_set_name"] == "Pile-CC"],
    ),
    # One document, lines joined as GPTQ and its successors do.
    "wikitext2": (_WIKITEXT2, "test", lambda rows: ["\n\n".join(r["text"] for r in rows)]),
    "c4": (_C4, "validation", lambda rows: [r["text"] for r in rows]),
}
CORPORA = ("sotu", *_HUB)
REVISION = "main"


def load_corpus(corpus: str) -> list[str]:
    """The documents of a named corpus or of a file: a `.jsonl` file holds one document a line in
    the field `text`, any other file is one document.

    Raises ValueError for an unknown name, a malformed file, or a hub that cannot be reached.
    """
    if corpus == "sotu":
        return _spread(heldout_addresses())
    if corpus in _HUB:
        return _load_hub(corpus)
    path = _existing_file(corpus)
    if path.suffix == ".jsonl":
        return _load_jsonl(path)
    try:
        return [path.read_text(encoding="utf-8")]
    except UnicodeDecodeError as error:
        raise ValueError(f"corpus file {path} is not UTF-8 text: {error}") from None


def corpus_version(corpus: str) -> str:
    """What the text depends on, without reading more than a local file: equal versions, equal
    text. Raises ValueError for an unknown name."""
    if corpus == "sotu":
        return f"sotu {version('sotu')}, every {HOLD_OUT_EVERY}th address"
    if corpus in _HUB:
        arguments, split, _ = _HUB[corpus]
        files = arguments.get("data_files", {}).get(split) or arguments.get("name")
        return f"{arguments['path']}@{REVISION} {files} {split}"
    digest = hashlib.sha256(_existing_file(corpus).read_bytes()).hexdigest()
    return f"sha256 {digest}"


def corpus_name(corpus: str) -> str:
    """The name results are filed under: that of the corpus, or of the file without its folder."""
    return corpus if corpus in CORPORA else Path(corpus).name


def _spread(texts: list[str]) -> list[str]:
    """Reorder so that any first few are spread over the whole: positions by bit-reversed rank.

    In date order the first 30,000 tokens would all be of before 1820.
    """
    digits = max(1, (len(texts) - 1).bit_length())
    return [texts[i] for i in sorted(range(len(texts)), key=lambda i: f"{i:0{digits}b}"[::-1])]


def _load_hub(corpus: str) -> list[str]:
    import datasets

    arguments, split, documents = _HUB[corpus]
    try:
        rows = datasets.load_dataset(split=split, revision=REVISION, **arguments)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ValueError(
            f"corpus {corpus!r} cannot be fetched from the hub ({arguments['path']}): {reason}. "
            "Give the path of a local text file or JSONL file (field `text`) in place of the name"
        ) from error
    return documents(rows)


def _load_jsonl(path: Path) -> list[str]:
    texts = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                texts.append(json.loads(line)["text"])
            except (ValueError, KeyError, TypeError):
                raise ValueError(
                    f"corpus file {path}, line {number}: not a JSON object with a field `text`"
                ) from None
    return texts


def _existing_file(corpus: str) -> Path:
    path = Path(corpus).expanduser()
    if path.is_file():
        return path
    near = difflib.get_close_matches(corpus, CORPORA, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"corpus {corpus!r} is neither a file nor one of {', '.join(CORPORA)}{hint}")
