"""Data as people have it: what can be read is read, the rest is one line before any work."""

import gzip
import json
import os
from pathlib import Path

import pytest

from evaluation.data.local_files import read_rows
from evaluation.protocols import task_protocol
from evaluation.tasks.local_tasks import build_task
from evaluation.text.corpora import check_corpus, corpus_version, load_corpus

BOM = "\ufeff"
PIQA = {"goal": "Keep bread fresh.", "sol1": "Wrap it.", "sol2": "Wet it.", "label": 0}
TABLE = "goal,sol1,sol2,label\r\nKeep bread fresh.,Wrap it.,Wet it.,0\r\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("latin1.txt", "café".encode("latin-1"), "latin1.txt is not UTF-8 text: .*0xe9"),
        ("latin1.jsonl", '{"text": "café"}'.encode("latin-1"), "latin1.jsonl is not UTF-8 text"),
        ("latin1.csv", "text\ncafé\n".encode("latin-1"), "latin1.csv is not UTF-8 text"),
        ("utf16.txt", "a text".encode("utf-16"), "utf16.txt is not UTF-8 text"),
        ("empty.txt", b"", "empty.txt has no text"),
        ("blank.txt", b" \n\n", "blank.txt has no text"),
        ("empty.jsonl", b"\n", "empty.jsonl has no text"),
        ("empty.csv", b"text\n", "empty.csv has no text"),
        ("other.jsonl", b'{"content": "x"}', "row 1: no text in a field `text`"),
        ("other.csv", b"content\nx\n", "row 1: no text in a field `text`"),
        ("short.csv", b"id,text\n1\n", "row 1: no text in a field `text`"),
        ("wide.csv", b"text\nx,y\n", "row 1: more fields than the header names"),
        ("half.jsonl", b'{"text": "a \\ud83d b"}', "line 1: .*half of a surrogate pair"),
        ("half.json", b'[{"text": "a \\uDE00 b"}]', "half.json: .*half of a surrogate pair"),
        ("deep.jsonl", b"[" * 100_000, "deep.jsonl"),
        (
            "cut.jsonl.gz",
            gzip.compress(b'{"text": "a b c"}\n' * 999, mtime=0)[:-20],
            "cut.*cannot be read",
        ),
        ("cut.txt.gz", gzip.compress(b"a b c\n" * 999, mtime=0)[:-9], "cut.txt.gz cannot be read"),
        ("cut.json", b'[{"text": "a"}', "cut.json cannot be read"),
    ],
)
def test_a_corpus_that_cannot_be_scored_is_refused_in_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        check_corpus(str(path))
    assert str(error.value).isprintable() and str(path) in str(error.value)


def test_places_that_hold_no_corpus(tmp_path):
    with pytest.raises(ValueError, match="is a folder; name a file in it"):
        check_corpus(str(tmp_path))
    with pytest.raises(ValueError, match="File name too long"):
        check_corpus("x" * 5000)
    with pytest.raises(ValueError, match="neither a file nor one of"):
        check_corpus(os.devnull)


def test_what_may_not_be_read_is_named(tmp_path, monkeypatch):
    path = tmp_path / "secret.txt"
    path.write_text("some text")

    def refuse(self, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)  # root may read anything: permissions would not do
    with pytest.raises(ValueError, match="secret.txt cannot be read: Permission denied"):
        check_corpus(str(path))


def test_byte_order_marks_and_long_fields_are_read(tmp_path):
    long = "word " * 40_000
    for name, content in {
        "a.jsonl": BOM + json.dumps({"text": long}),
        "a.json": BOM + json.dumps([{"text": long}]),
        "a.csv": BOM + f'text\n"{long}"\n',
        "a.txt": BOM + long,
    }.items():
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        check_corpus(str(path))
        assert load_corpus(str(path)) == [long]


def test_a_text_with_a_mark_has_a_version_of_its_own(tmp_path):
    """Where the mark was once scored as a character: those scores are never joined with these."""
    marked, plain = tmp_path / "a.txt", tmp_path / "b.txt"
    marked.write_text(BOM + "text", encoding="utf-8")
    plain.write_text("text")
    assert corpus_version(str(marked)).endswith(", without its byte order mark")
    assert corpus_version(str(plain)).startswith("sha256 ") and "," not in corpus_version(
        str(plain)
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [("p.jsonl", json.dumps(PIQA)), ("p.csv", TABLE), ("p.tsv", TABLE.replace(",", "\t"))],
)
def test_items_with_a_mark_are_those_without(tmp_path, name, content):
    """Tables hold the answer as text; the task reads a number."""
    scored = []
    for mark in ("", BOM):
        path = tmp_path / name
        path.write_text(mark + content, encoding="utf-8", newline="")
        task_protocol("piqa", None, str(path))
        task = build_task("piqa", str(path))
        scored.append([(task.doc_to_text(d), task.doc_to_target(d)) for d in task.eval_docs])
    assert scored[0] == scored[1] == [("Question: Keep bread fresh.\nAnswer:", 0)]


def test_items_are_checked_to_the_last_row(tmp_path):
    path = tmp_path / "piqa.jsonl"
    path.write_bytes((json.dumps(PIQA) + "\n").encode() * 20 + '{"goal": "café"}'.encode("latin-1"))
    with pytest.raises(ValueError, match="piqa.jsonl is not UTF-8"):
        task_protocol("piqa", None, str(path))
    path.write_text((json.dumps(PIQA) + "\n") * 20 + '{"goal": "g"}')
    with pytest.raises(ValueError, match="row 21 lacks label, sol1, sol2"):
        task_protocol("piqa", None, str(path))


def test_some_rows_are_read_without_the_rest(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\nno json')
    assert read_rows(path, 1) == [{"text": "a"}]
