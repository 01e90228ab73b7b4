"""Rows of local data files: what an air-gapped cluster has in place of the hub."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from evaluation.errors import DataError

ROW_FILES = (".jsonl", ".jsonl.gz", ".json.gz", ".json", ".csv", ".tsv", ".parquet")


def is_row_file(path: Path) -> bool:
    """Whether a file's name says that it holds rows (else it is plain text)."""
    return path.name.lower().endswith(ROW_FILES)


def read_rows(path: Path, first: int | None = None) -> list[dict[str, Any]]:
    """The rows (the `first` few; None: all) of a JSONL, JSON, CSV, TSV or Parquet file.

    JSON is one object a line (gzipped or not), or one list of objects. Raises ValueError that
    names file and line for anything else.
    """
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    try:
        if kind == "parquet":
            return _parquet_rows(path, first)
        with _open_text(path) as lines:
            if kind in ("csv", "tsv"):
                table = csv.DictReader(lines, delimiter="," if kind == "csv" else "\t")
                return [row for _, row in zip(_count(first), table, strict=False)]
            if kind == "json" and lines.read(1) == "[":
                lines.seek(0)
                return _objects(json.load(lines), path)[:first]
            lines.seek(0)
            return _json_lines(lines, path, first)
    except UnicodeDecodeError as error:
        raise DataError(f"data file {path} is not UTF-8 text: {error}") from None
    except (OSError, json.JSONDecodeError) as error:  # pyarrow's errors are ValueErrors
        raise DataError(f"data file {path} cannot be read: {error}") from None


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


def _open_text(path: Path) -> IO[str]:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8", newline="" if path.suffix in (".csv", ".tsv") else None)


def _count(first: int | None) -> range:
    return range(2**62 if first is None else first)


def _json_lines(lines: IO[str], path: Path, first: int | None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if len(rows) == first:
            break
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise DataError(f"data file {path}, line {number}: not a JSON object")
        rows.append(row)
    return rows


def _objects(content: Any, path: Path) -> list[dict[str, Any]]:
    if not all(isinstance(row, dict) for row in content):
        raise DataError(f"data file {path}: not a list of JSON objects")
    return content


def _parquet_rows(path: Path, first: int | None) -> list[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"data file {path} is not Parquet: {reason}") from None
    return table.slice(0, first).to_pylist()
