from __future__ import annotations

import gzip
import json

import datasets
import pandas
import pytest

from evaluation.sotu.corpus import heldout_addresses, training_addresses
from evaluation.text.corpora import CORPORA, corpus_name, corpus_version, load_corpus


def test_sotu_is_the_heldout_text_spread_over_time():
    documents = load_corpus("sotu")
    assert sorted(documents) == sorted(heldout_addresses())
    assert not set(documents) & set(training_addresses())
    ranks = [heldout_addresses().index(d) for d in documents[:4]]
    assert max(ranks) - min(ranks) > len(documents) / 2


def test_local_files(tmp_path):
    text, rows = tmp_path / "a.txt", tmp_path / "b.jsonl"
    text.write_text("Fourscore — and\nseven", encoding="utf-8")
    rows.write_text('{"text": "one"}\n\n{"text": "two", "meta": {}}\n')
    assert load_corpus(str(text)) == ["Fourscore — and\nseven"]
    assert load_corpus(str(rows)) == ["one", "two"]
    assert corpus_name(str(rows)) == "b.jsonl"


def test_version_follows_the_content_not_the_place(tmp_path):
    first, second = tmp_path / "a.txt", tmp_path / "elsewhere.txt"
    first.write_text("same")
    second.write_text("same")
    assert corpus_version(str(first)) == corpus_version(str(second))
    second.write_text("other")
    assert corpus_version(str(first)) != corpus_version(str(second))
    assert len({corpus_version(name) for name in CORPORA}) == len(CORPORA)


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ('{"text": "x"}\n{"txt": "y"}', "row 2: no text in a field `text`"),
        ('{"text": null}', "row 1: no text in a field `text`"),
        ('{"text": "x"}\n\n[1]', "line 3: not a JSON object"),
        ('{"text": "x"}\n{"text"', "line 2: not a JSON object"),
    ],
)
def test_malformed_jsonl_names_file_and_line(tmp_path, content, where):
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"bad.jsonl, {where}"):
        load_corpus(str(path))


def test_binary_file_is_refused(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match="weights.bin is not UTF-8"):
        load_corpus(str(path))


@pytest.mark.parametrize("function", [load_corpus, corpus_version])
def test_unknown_name_gets_a_hint(function):
    with pytest.raises(ValueError, match="did you mean wikitext2"):
        function("wikitext")


def test_unreachable_hub_is_one_clear_line(monkeypatch):
    def unreachable(**arguments):
        raise ConnectionError("couldn't reach the hub\nlong trace")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        ValueError, match="'c4'.*couldn't reach the hub.*local copy.*data_files"
    ) as caught:
        load_corpus("c4")
    assert "\n" not in str(caught.value)


def test_pile_cc_takes_common_crawl_only(monkeypatch):
    rows = [
        {"text": "web", "meta": {"pile_set_name": "Pile-CC"}},
        {"text": "code", "meta": {"pile_set_name": "Github"}},
    ]
    monkeypatch.setattr(datasets, "load_dataset", lambda **arguments: rows)
    assert load_corpus("pile_cc") == ["web"]
    assert json.dumps(corpus_version("pile_cc"))


def test_a_local_copy_gives_the_documents_that_the_hub_would(tmp_path):
    pile = tmp_path / "val.jsonl.gz"
    with gzip.open(pile, "wt") as lines:
        for text, origin in (("web", "Pile-CC"), ("code", "Github"), ("more", "Pile-CC")):
            lines.write(json.dumps({"text": text, "meta": {"pile_set_name": origin}}) + "\n")
    assert load_corpus("pile_cc", str(pile)) == ["web", "more"]
    wikitext = tmp_path / "test.parquet"
    pandas.DataFrame({"text": ["", " = Title = ", "One line ."]}).to_parquet(wikitext)
    assert load_corpus("wikitext2", str(wikitext)) == ["\n\n = Title = \n\nOne line ."]
    filtered = tmp_path / "filtered.jsonl"
    filtered.write_text('{"text": "already Pile-CC"}\n')
    assert load_corpus("pile_cc", str(filtered)) == ["already Pile-CC"]
    plain = tmp_path / "web.txt"
    plain.write_text("one text")
    assert load_corpus("c4", str(plain)) == ["one text"]


def test_a_local_copy_is_known_by_its_content(tmp_path):
    first, moved = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("same")
    moved.write_text("same")
    assert corpus_version("c4", str(first)) == corpus_version("c4", str(moved))
    assert corpus_version("c4", str(first)) == corpus_version(str(first))
    moved.write_text("other")
    assert corpus_version("c4", str(first)) != corpus_version("c4", str(moved))
    assert corpus_version("c4", str(first)) != corpus_version("c4")


@pytest.mark.parametrize(
    ("corpus", "message"),
    [("sotu", "'sotu': data_files is for a local copy of pile_cc"), ("c4", "neither a file")],
)
def test_a_local_copy_that_cannot_be_is_refused(tmp_path, corpus, message):
    with pytest.raises(ValueError, match=message):
        corpus_version(corpus, str(tmp_path / "absent.txt"))
