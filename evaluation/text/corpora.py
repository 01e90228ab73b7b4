"""Texts to measure perplexity on: named corpora, of the hub or local copies, or any local file."""

from __future__ import annotations

import codecs
import difflib
import os
import zlib
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evaluation.data.errors import DataError
from evaluation.data.hub import check_dataset, from_hub
from evaluation.data.local_files import content_version, is_row_file, open_text, read_rows
from evaluation.sotu.corpus import HOLD_OUT_EVERY, heldout_addresses
from quantizers.plain import reason

# Hub data sets: load_dataset's arguments and how rows become documents. Local copies may have been
# filtered before: rows that do not say where in the Pile they are from count as Pile-CC.
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
        lambda rows: [r["text"] for r in rows if _pile_set(r) in ("Pile-CC", None)],
    ),
    # One document, lines joined as GPTQ and its successors do.
    "wikitext2": (_WIKITEXT2, "test", lambda rows: ["\n\n".join(r["text"] for r in rows)]),
    "c4": (_C4, "validation", lambda rows: [r["text"] for r in rows]),
}
CORPORA = ("sotu", *_HUB)
REVISION = "main"


def load_corpus(corpus: str, data_files: str | None = None) -> list[str]:
    """The documents of a named corpus or of a file.

    A JSONL, JSON, CSV or Parquet file holds one document a row in the field `text`; any other file
    is one document. `data_files` is a local copy of a named corpus: a file with the hub's rows, of
    which documents are made as of the hub's, or plain text. Raises ValueError for an unknown name,
    a malformed file, or a hub that cannot be reached.
    """
    if corpus == "sotu":
        return _spread(heldout_addresses())
    if corpus in _HUB and data_files is None:
        return _load_hub(corpus)
    return _documents(_existing_file(data_files or corpus), corpus)


def check_corpus(corpus: str, data_files: str | None = None) -> None:
    """Raises ValueError as `load_corpus` would, and for a file without text. Asks no hub."""
    version = corpus_version(corpus, data_files)
    if corpus not in CORPORA or data_files is not None:
        _check_file(_existing_file(data_files or corpus), corpus, version)


@lru_cache(maxsize=64)
def _check_file(path: Path, corpus: str, version: str) -> None:
    if not any(document.strip() for document in _documents(path, corpus)):
        raise DataError(f"corpus file {path} has no text")


def _documents(path: Path, corpus: str) -> list[str]:
    if is_row_file(path):
        rows = _rows_with_text(path)
        return _HUB[corpus][2](rows) if corpus in _HUB else [row["text"] for row in rows]
    try:
        with open_text(path) as text:
            return [text.read()]
    except UnicodeDecodeError as error:
        raise DataError(
            f"corpus file {path} is not UTF-8 text: {error}; convert it, e.g. with iconv"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"corpus file {path} cannot be read: {reason(error)}") from None


def corpus_version(corpus: str, data_files: str | None = None) -> str:
    """What the text depends on, without reading more than a local file: equal versions, equal
    text. Raises ValueError for an unknown name, and for `data_files` of a corpus that has none."""
    if data_files is not None:
        if corpus not in _HUB:
            raise DataError(
                f"corpus {corpus!r}: data_files is for a local copy of {', '.join(_HUB)}; give any "
                "other file as the name"
            )
        return _file_version(_existing_file(data_files))
    if corpus == "sotu":
        return f"sotu {version('sotu')}, every {HOLD_OUT_EVERY}th address"
    if corpus in _HUB:
        arguments, split, _ = _HUB[corpus]
        files = arguments.get("data_files", {}).get(split) or arguments.get("name")
        return f"{arguments['path']}@{REVISION} {files} {split}"
    return _file_version(_existing_file(corpus))


def _file_version(path: Path) -> str:
    version = content_version(path)
    with path.open("rb") as content:
        marked = content.read(3) == codecs.BOM_UTF8 and not is_row_file(path)
    # The mark was once scored as a character of the text: those scores keep their version.
    return f"{version}, without its byte order mark" if marked else version


def corpus_name(corpus: str) -> str:
    """The name results are filed under: that of the corpus, or of the file without its folder."""
    return corpus if corpus in CORPORA else Path(corpus).name


def _spread(texts: list[str]) -> list[str]:
    """Reorder so that any first few are spread over the whole: positions by bit-reversed rank.

    In date order the first 30,000 tokens would all be of before 1820.
    """
    digits = max(1, (len(texts) - 1).bit_length())
    return [texts[i] for i in sorted(range(len(texts)), key=lambda i: f"{i:0{digits}b}"[::-1])]


def check_corpus_on_hub(corpus: str) -> None:
    """Raises DataError where a named corpus of the hub cannot be had now."""
    if corpus in _HUB:
        check_dataset(*_hub_words(corpus))


def _load_hub(corpus: str) -> list[str]:
    import datasets

    arguments, split, documents = _HUB[corpus]
    what, _, advice = _hub_words(corpus)
    rows = from_hub(
        what, lambda: datasets.load_dataset(split=split, revision=REVISION, **arguments), advice
    )
    return documents(rows)


def _hub_words(corpus: str) -> tuple[str, str, str]:
    """The corpus in words, its data set, and what to do without it."""
    dataset = _HUB[corpus][0]["path"]
    advice = (
        "Point it at a local copy in the sweep file (corpora: [{name: "
        f"{corpus}, data_files: PATH}}]), or give the path of any text or JSONL file in place of "
        "the name"
    )
    return f"corpus {corpus!r} ({dataset})", dataset, advice


def _rows_with_text(path: Path) -> list[dict[str, Any]]:
    rows = read_rows(path)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get("text"), str):
            raise DataError(f"corpus file {path}, row {number}: no text in a field `text`")
    return rows


def _pile_set(row: dict[str, Any]) -> str | None:
    meta = row.get("meta")
    return meta.get("pile_set_name") if isinstance(meta, dict) else None


def _existing_file(corpus: str) -> Path:
    path = Path(os.path.expanduser(corpus))
    try:
        if path.is_file():
            return path
        folder = path.is_dir()
    except OSError as error:  # a name too long, a folder that may not be entered
        raise DataError(f"corpus {corpus[:200]!r}: {error.strerror}") from None
    if folder:
        raise DataError(f"corpus {corpus!r} is a folder; name a file in it")
    near = difflib.get_close_matches(corpus, CORPORA, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise DataError(f"corpus {corpus!r} is neither a file nor one of {', '.join(CORPORA)}{hint}")
