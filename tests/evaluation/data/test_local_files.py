"""Rows are the same whatever file holds them, and a bad file is one clear line."""

from __future__ import annotations

import gzip
import json

import pandas
import pytest

from evaluation.data.local_files import content_version, is_row_file, read_rows

ROWS = [{"goal": "a, “quoted”\nline", "label": "1"}, {"goal": "b", "label": "0"}]


def write(path, kind: str):
    path = path / f"rows.{kind}"
    lines = "".join(json.dumps(row) + "\n\n" for row in ROWS)
    if kind.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif kind == "parquet":
        pandas.DataFrame(ROWS).to_parquet(path)
    elif kind in ("csv", "tsv"):
        pandas.DataFrame(ROWS).to_csv(path, index=False, sep="," if kind == "csv" else "\t")
    else:
        path.write_text(json.dumps(ROWS) if kind == "json" else lines, encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["jsonl", "json", "jsonl.gz", "json.gz", "csv", "tsv", "parquet"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, kind):
    path = write(tmp_path, kind)
    assert is_row_file(path)
    assert read_rows(path) == ROWS
    assert read_rows(path, 1) == ROWS[:1]


def test_json_may_be_lines_too(tmp_path):
    path = write(tmp_path, "jsonl").rename(tmp_path / "lines.json")
    assert read_rows(path) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"x": 1}\n{"x"', "a.jsonl, line 2: not a JSON object"),
        ("a.json", b"[1, 2]", "a.json: not a list of JSON objects"),
        ("a.json", b"[1, 2", "a.json cannot be read"),
        ("a.jsonl.gz", b"plain", "a.jsonl.gz cannot be read"),
        ("a.jsonl", b"\xff\xfe\x00\x80", "a.jsonl is not UTF-8"),
        ("a.parquet", b"no parquet at all", "a.parquet is not Parquet"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_rows(path)
    assert "\n" not in str(caught.value)


def test_version_is_of_the_contents_in_order(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("1")
    b.write_text("2")
    assert content_version(a, b) != content_version(b, a)
    assert content_version(a) == "sha256 " + "6b86b273ff34fce19d6b804eff5a3f57" + (
        "47ada4eaa22f1d49c01e52ddb7875b4b"
    )
    before = content_version(a, b)
    b.write_text("22")
    assert content_version(a, b) != before
    with pytest.raises(ValueError, match="absent cannot be read"):
        content_version(tmp_path / "absent")
