"""Sentences of the held-out addresses, and what the training addresses know about words.

The zero-shot tasks are cut from the former; the latter choose fair distractors and keep text that
a model was trained on out of the tasks.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache, cached_property

import numpy as np

from evaluation.sotu.corpus import heldout_addresses, training_addresses

OVERLAP_WORDS = 13  # the n-gram length by which GPT-3 and the harness judge contamination
COMMON = 20  # occurrences in the training text from which a word may be a distractor

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
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
    """Word counts, word pairs and long n-grams of the training addresses."""

    def __init__(self, texts: Sequence[str] | None = None) -> None:
        texts = training_addresses() if texts is None else texts
        self._texts = [words_of(t) for t in texts]
        self.count: Counter[str] = Counter()
        self.lower_case_count: Counter[str] = Counter()
        self.pair_count: Counter[tuple[str, str]] = Counter()
        for words in self._texts:
            self.count.update(words)
            self.pair_count.update(zip(words, words[1:], strict=False))
        for text in texts:
            self.lower_case_count.update(re.findall(r"\b[a-z]+\b", text))

    @cached_property
    def rivals(self) -> dict[tuple[str, str], list[str]]:
        """Common content words by (a word they were seen to follow, their word class), in
        alphabetical order. Names are left out: they would stand in lower case."""
        wanted = {
            word
            for word, count in self.count.items()
            if count >= COMMON and is_content(word) and self.lower_case_count[word] > count / 2
        }
        rivals = defaultdict(list)
        for before, word in sorted(pair for pair in self.pair_count if pair[1] in wanted):
            rivals[before, word_class(word)].append(word)
        return dict(rivals)

    def probability(self, word: str, after: str) -> float:
        """Relative frequency of `word` among the words that follow `after`."""
        return self.pair_count[after, word] / max(1, self.count[after])

    def mean_log_probability(self, text: str) -> float:
        """Smoothed bigram log-probability a word, in nats: how common the text's phrases are.

        Rounded, so that comparisons come out alike on every machine.
        """
        words = words_of(text)
        logs = [
            math.log((self.pair_count[first, second] + 0.1) / (self.count[first] + 100))
            for first, second in zip(words, words[1:], strict=False)
        ]
        return round(sum(logs) / len(logs), 6)

    def overlaps(self, text: str) -> bool:
        """Whether `text` shares a run of 13 words with a training address.

        Raises ValueError for a shorter text, of which that cannot be said.
        """
        hashes = self._ngram_hashes(words_of(text))
        if len(hashes) == 0:
            raise ValueError(f"text of fewer than {OVERLAP_WORDS} words: {text!r}")
        nearest = np.searchsorted(self._known_hashes, hashes)
        nearest = np.minimum(nearest, len(self._known_hashes) - 1)
        return bool((self._known_hashes[nearest] == hashes).any())

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i + 1 for i, word in enumerate(self.count)}

    @cached_property
    def _known_hashes(self) -> np.ndarray:
        return np.unique(np.concatenate([self._ngram_hashes(words) for words in self._texts]))

    def _ngram_hashes(self, words: Sequence[str]) -> np.ndarray:
        """A 64-bit hash of every run of 13 words, uint64 [len(words) - 12 or 0]."""
        ids = np.array([self._ids.get(w, 0) for w in words], dtype=np.uint64)
        n = max(0, len(ids) - OVERLAP_WORDS + 1)
        hashes = np.zeros(n, dtype=np.uint64)
        for j in range(OVERLAP_WORDS):
            hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + ids[j : j + n]
        return hashes
