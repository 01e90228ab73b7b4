"""Rows of local data files: what an air-gapped cluster has in place of the hub."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import re
import sys
import zlib
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO, Any

from evaluation.data.errors import DataError
from quantizers.plain import reason

ROW_FILES = (".jsonl", ".jsonl.gz", ".json.gz", ".json", ".csv", ".tsv", ".parquet")


def is_row_file(path: Path) -> bool:
    """Whether a file's name says that it holds rows (else it is plain text)."""
    return path.name.lower().endswith(ROW_FILES)


def read_rows(path: Path, first: int | None = None) -> list[dict[str, Any]]:
    """The rows of a file (the `first` few; None: all), as `iter_rows` gives them."""
    return list(islice(iter_rows(path), first))


def iter_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL, JSON, CSV, TSV or Parquet file, one after the other.

    JSON is one object a line (gzipped or not), or one list of objects; a byte order mark is no part
    of it. Raises ValueError that names file and line for anything else.
    """
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    try:
        if kind == "parquet":
            yield from _parquet_rows(path)
            return
        with open_text(path) as lines:
            if kind in ("csv", "tsv"):
                yield from _table_rows(lines, path, "," if kind == "csv" else "\t")
            elif kind == "json" and lines.read(1) == "[":
                lines.seek(0)
                yield from _objects(lines.read(), path)
            else:
                lines.seek(0)
                yield from _json_lines(lines, path)
    except UnicodeDecodeError as error:
        raise DataError(f"data file {path} is not UTF-8 text: {error}") from None
    except (OSError, EOFError, zlib.error, csv.Error, RecursionError) as error:
        raise DataError(f"data file {path} cannot be read: {reason(error)}") from None


def content_version(*paths: Path) -> str:
    """`sha256 ...` of the contents, in order; names and places do not count.

    Raises ValueError for a file that cannot be read.
    """
    try:
        digests = [_digest(path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths]
    except OSError as error:
        raise DataError(f"data file {error.filename} cannot be read: {error.strerror}") from None
    if len(digests) == 1:
        return f"sha256 {digests[0]}"
    return f"sha256 {hashlib.sha256(' '.join(digests).encode()).hexdigest()}"


@lru_cache(maxsize=1024)  # asked once a model; the time of change and the size tell a new content
def _digest(path: Path, changed: int, size: int) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def open_text(path: Path) -> IO[str]:
    """A text file, gzipped or not, without a byte order mark."""
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig")
    newline = "" if path.suffix in (".csv", ".tsv") else None
    return path.open(encoding="utf-8-sig", newline=newline)


def _table_rows(lines: IO[str], path: Path, delimiter: str) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(sys.maxsize)  # a document may be one field
    for number, row in enumerate(csv.DictReader(lines, delimiter=delimiter), start=1):
        if None in row:
            raise DataError(f"data file {path}, row {number}: more fields than the header names")
        yield row


def _json_lines(lines: IO[str], path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise DataError(f"data file {path}, line {number}: not a JSON object")
        _check_surrogates(line, row, f"data file {path}, line {number}")
        yield row


def _objects(text: str, path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DataError(f"data file {path} cannot be read: {error}") from None
    if not all(isinstance(row, dict) for row in content):
        raise DataError(f"data file {path}: not a list of JSON objects")
    _check_surrogates(text, content, f"data file {path}")
    return content


def _check_surrogates(text: str, value: Any, where: str) -> None:
    """Half a character, which JSON can spell and no tokenizer can read."""
    if "\\ud" in text or "\\uD" in text:
        half = re.search("[\ud800-\udfff]", json.dumps(value, ensure_ascii=False))
        if half:
            raise DataError(
                f"{where}: {ascii(half[0])} is half of a surrogate pair, not a character; "
                "remove it or write the file again as UTF-8"
            )


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"data file {path} is not Parquet: {reason}") from None
