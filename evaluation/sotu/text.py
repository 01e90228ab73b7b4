"""Sentences of the held-out addresses, and what the training addresses know about words.

The zero-shot tasks are cut from the former; the latter choose fair distractors and keep text that
a model was trained on out of the tasks.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from itertools import chain, repeat

import numpy as np

from evaluation.sotu.corpus import heldout_addresses, training_addresses

OVERLAP_WORDS = 13  # the n-gram length by which GPT-3 and the harness judge contamination
COMMON = 20  # occurrences in the training text from which a word may be a distractor

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_LOWER_CASE = re.compile(r"\b[a-z]+\b")
_SENTENCE_END = re.compile(r"[.!?][\"']?\s+(?=[\"'A-Z])")
_ABBREVIATION = re.compile(
    r"(?:Mr|Mrs|Dr|No|Nos|St|Ft|Gen|Gov|Sen|Col|Capt|Lieut|Maj|Adm|Jr|Sr|Messrs|Hon|Rev|Art|viz|vs"
    r"|ult|inst|(?:[A-Z]\.)*[A-Z])"
)
# One plain declarative sentence: no figures, quotations or brackets.
_PLAIN = re.compile(r"[A-Z][A-Za-z,;:'\- —]+\.")
_SUFFIX = re.compile(
    r"(?:tions?|ments?|it(?:y|ies)|ness|ings?|ed|ly|ies|es|s|able|ible|ive|ous|al|ful|ary|ate|ize"
    r"|[ae]nce|er|or)$"
)
_NOT_CONTENT = """
    about after also although among because been before being between both could does down during
    each either else even ever every from have having here however into itself like many more most
    much must neither once only other ours over shall should since some such than that their them
    themselves then there these they this those though through thus toward under until unto upon
    very were what when where whether which while whom whose will with within without would your
    yours three four five seven eight nine twelve twenty thirty forty fifty hundred thousand million
"""
_FUNCTION_WORDS = frozenset(_NOT_CONTENT.split())
# The two words of a pair, in one number.
_HALF, _SECOND = np.uint64(32), np.uint64(2**32 - 1)


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return _WORD.findall(text.lower())


def is_content(word: str) -> bool:
    """A lower-case word that carries meaning, as far as its form tells."""
    return len(word) >= 4 and word.isalpha() and word.islower() and word not in _FUNCTION_WORDS


@cache
def word_class(word: str) -> str:
    """A rough word class: what the word ends in, "" for most."""
    match = _SUFFIX.search(word)
    return match.group() if match else ""


def split_sentences(paragraph: str) -> list[str]:
    """Sentences of one paragraph; a period after an abbreviation or an initial ends none."""
    sentences, start = [], 0
    for end in _SENTENCE_END.finditer(paragraph):
        last_word = re.split(r"[\s(]", paragraph[start : end.start()])[-1]
        if paragraph[end.start()] == "." and _ABBREVIATION.fullmatch(last_word):
            continue
        sentences.append(paragraph[start : end.end()].strip())
        start = end.end()
    return [s for s in [*sentences, paragraph[start:].strip()] if s]


def heldout_sentences() -> list[str]:
    """Distinct plain sentences of the held-out addresses, in the order of the text."""
    found: dict[str, None] = {}
    for address in heldout_addresses():
        for paragraph in address.split("\n"):
            for sentence in split_sentences(paragraph):
                sentence = " ".join(sentence.split())
                if _PLAIN.fullmatch(sentence):
                    found[sentence] = None
    return list(found)


class TrainingText:
    """Word counts, word pairs and long n-grams of the training addresses.

    Words are numbered in alphabetical order from 1 on, 0 is any other word; a pair is one number of
    64 bits: two million pairs are counted by sorting numbers, many times faster than as tuples.
    """

    def __init__(self, texts: Sequence[str] | None = None) -> None:
        texts = training_addresses() if texts is None else texts
        split = [words_of(t) for t in texts]
        self._words = ["", *sorted(set(chain.from_iterable(split)))]
        self._ids = {word: i for i, word in enumerate(self._words)}
        self._texts = [self._ids_of(words) for words in split]
        self._counts = self._counts_of(self._texts)
        pairs = np.concatenate([ids[:-1] << _HALF | ids[1:] for ids in self._texts])
        self._pairs, pair_counts = np.unique(pairs, return_counts=True)
        self._pair_count = dict(zip(self._pairs.tolist(), pair_counts.tolist(), strict=True))
        self._in_lower_case = self._counts_of(self._ids_of(_LOWER_CASE.findall(t)) for t in texts)

    def count(self, word: str) -> int:
        return int(self._counts[self._ids[word]]) if word in self._ids else 0

    def pair_count(self, first: str, second: str) -> int:
        """How often `second` follows `first`."""
        get = self._ids.get
        return self._pair_count.get(get(first, 0) << 32 | get(second, 0), 0)

    @cached_property
    def _rivals(self) -> dict[tuple[str, str], np.ndarray]:
        """Common content words by (a word they were seen to follow, their word class), in
        alphabetical order. Names are left out: they would stand in lower case."""
        common = (self._counts >= COMMON) & (self._in_lower_case > self._counts / 2)
        common &= np.array([is_content(word) for word in self._words])
        pairs = self._pairs[common[self._pairs & _SECOND]]  # sorted by both words
        rivals = defaultdict(list)
        for pair in pairs.tolist():
            rival = pair & 0xFFFFFFFF
            rivals[self._words[pair >> 32], word_class(self._words[rival])].append(rival)
        return {key: np.array(ids, dtype=np.uint64) for key, ids in rivals.items()}

    def rivals(
        self, before: str, word_class: str, low: float, high: float, after: str | None = None
    ) -> list[str]:
        """Common content words of a class that are known to follow `before`, and to precede
        `after`, and occur `low` to `high` times; in alphabetical order."""
        ids = self._rivals.get((before, word_class))
        if ids is None:
            return []
        counts = self._counts[ids]
        ids = ids[(low <= counts) & (counts <= high)]
        if after is not None:
            pairs = ids << _HALF | np.uint64(self._ids.get(after, 0))
            places = np.minimum(np.searchsorted(self._pairs, pairs), len(self._pairs) - 1)
            ids = ids[self._pairs[places] == pairs]
        return [self._words[i] for i in ids.tolist()]

    def probability(self, word: str, after: str) -> float:
        """Relative frequency of `word` among the words that follow `after`."""
        return self.pair_count(after, word) / max(1, self.count(after))

    def mean_log_probability(self, text: str) -> float:
        """Smoothed bigram log-probability a word, in nats: how common the text's phrases are.

        Rounded, so that comparisons come out alike on every machine.
        """
        words = words_of(text)
        logs = [
            math.log((self.pair_count(first, second) + 0.1) / (self.count(first) + 100))
            for first, second in zip(words, words[1:], strict=False)
        ]
        return round(sum(logs) / len(logs), 6)

    def overlaps(self, text: str) -> bool:
        """Whether `text` shares a run of 13 words with a training address.

        Raises ValueError for a shorter text, of which that cannot be said.
        """
        hashes = _run_hashes(self._ids_of(words_of(text)))
        if len(hashes) == 0:
            raise ValueError(f"text of fewer than {OVERLAP_WORDS} words: {text!r}")
        nearest = np.searchsorted(self._known_hashes, hashes)
        nearest = np.minimum(nearest, len(self._known_hashes) - 1)
        return bool((self._known_hashes[nearest] == hashes).any())

    @cached_property
    def _known_hashes(self) -> np.ndarray:
        return np.sort(np.concatenate([_run_hashes(ids) for ids in self._texts]))

    def _counts_of(self, texts: Iterable[np.ndarray]) -> np.ndarray:
        return np.bincount(np.concatenate(list(texts)), minlength=len(self._words))

    def _ids_of(self, words: Sequence[str]) -> np.ndarray:
        return np.fromiter(map(self._ids.get, words, repeat(0)), np.uint64, len(words))


def _run_hashes(ids: np.ndarray) -> np.ndarray:
    """A 64-bit hash of every run of 13 words, uint64 [len(ids) - 12 or 0]."""
    n = max(0, len(ids) - OVERLAP_WORDS + 1)
    hashes = np.zeros(n, dtype=np.uint64)
    for j in range(OVERLAP_WORDS):
        hashes *= np.uint64(0x9E3779B97F4A7C15)
        hashes += ids[j : j + n]
    return hashes
