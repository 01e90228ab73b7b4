from __future__ import annotations

import pytest

from evaluation.sotu.text import (
    TrainingText,
    heldout_sentences,
    is_content,
    split_sentences,
    word_class,
)

ALPHABET = " ".join(f"word{c}" for c in "abcdefghijklmnopqrstuvwxyz")


def test_sentences_end_at_stops_but_not_at_abbreviations():
    paragraph = (
        'Mr. Speaker, the U.S. Army won. "We shall go on!" No. 5 was lost? Gen. W. T. Hall left.'
    )
    assert split_sentences(paragraph) == [
        "Mr. Speaker, the U.S. Army won.",
        '"We shall go on!"',
        "No. 5 was lost?",
        "Gen. W. T. Hall left.",
    ]


def test_heldout_sentences_are_plain_and_distinct():
    sentences = heldout_sentences()
    assert len(sentences) == len(set(sentences)) > 4000
    assert not any(set(s) & set('0123456789$"[]()\n') for s in sentences)
    assert all(s[0].isupper() and s.endswith(".") for s in sentences)


def test_overlap_needs_thirteen_words_in_a_row():
    training = TrainingText([f"Before. {ALPHABET} after", "unrelated text"])
    words = ALPHABET.split()
    assert training.overlaps("Other words, then " + ", ".join(words[3:16]).upper() + ".")
    assert not training.overlaps("Other words then " + " ".join(words[3:15]) + " and yet others")
    assert not training.overlaps(" ".join([*words[:6], "not", *words[6:14]]))
    with pytest.raises(ValueError, match="fewer than 13 words"):
        training.overlaps(" ".join(words[:12]))


def test_rivals_follow_the_word_are_common_and_no_names():
    text = "the nation the station the Mexican the vacation the nation " * 20
    training = TrainingText([text, "the rotation"])
    assert training.rivals("the", "tion", 0, 100) == ["nation", "station", "vacation"]
    assert training.rivals("the", "tion", 0, 39) == ["station", "vacation"]
    assert training.rivals("the", "tion", 0, 100, after="the") == ["nation", "station", "vacation"]
    assert training.rivals("the", "tion", 0, 100, after="nation") == []
    assert training.rivals("the", word_class("mexican"), 0, 100) == []
    assert training.probability("nation", after="the") == pytest.approx(40 / 101)
    assert training.pair_count("the", "nation") == 40 == training.count("nation")


def test_word_classes():
    assert word_class("nations") == "tions" and word_class("going") == "ing"
    assert is_content("peace") and not any(map(is_content, ("which", "Peace", "war", "x-rays")))
