"""Requests to tokens, following HFLM of lm-eval 0.4.13 to the letter so that scores agree with it.

- trailing spaces of a context move to the continuation; context + continuation are tokenized
  together and split at the length of the context tokenized alone;
- an empty context becomes the prefix token (BOS, else EOS), unless the continuation begins with it;
- special tokens as the tokenizer adds them, except where the text begins with the prefix token.

Cutting on the left what the model cannot read is left to `layout`.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence

from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import PreTrainedTokenizerBase

from evaluation.engine.recent import Recent
from evaluation.engine.sequences import Sequences

KEPT = 160  # tokenized texts in memory: all of mmlu is 57 tasks


class Encoder:
    """A tokenizer with the harness's habits, and what it has tokenized lately (`kept`).

    `fingerprint` tells tokenizers apart by content; to find it is to serialize the tokenizer, which
    takes 0.2 s for 50 thousand tokens: once an encoder.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.fingerprint = tokenizer_fingerprint(tokenizer)
        self.kept = Recent(KEPT)
        self.prefix_token_id = _prefix_token_id(tokenizer)
        self._prefix_text = str(tokenizer.decode(self.prefix_token_id))

    def pairs(self, texts: Sequence[tuple[str, ...]]) -> Sequences:
        """(context, continuation) as sequences whose continuation is scored.

        Raises ValueError where a continuation has no token of its own.
        """
        pairs = [_move_trailing_space(context, continuation) for context, continuation in texts]
        given = [i for i, (context, _) in enumerate(texts) if context != ""]
        whole = self._encode([pairs[i][0] + pairs[i][1] for i in given])
        contexts = self._encode([pairs[i][0] for i in given])
        encoded: list[tuple[list[int], list[int]]] = [([], [])] * len(texts)
        for i, all_tokens, context in zip(given, whole, contexts, strict=True):
            encoded[i] = (context, all_tokens[len(context) :])
        alone = [i for i, (context, _) in enumerate(texts) if context == ""]
        continuations = self._encode([texts[i][1] for i in alone], add_special_tokens=False)
        for i, tokens in zip(alone, continuations, strict=True):
            starts_with_prefix = tokens[:1] == [self.prefix_token_id]
            encoded[i] = (
                (tokens[:1], tokens[1:]) if starts_with_prefix else ([self.prefix_token_id], tokens)
            )
        for text, (before, scored) in zip(texts, encoded, strict=True):
            if not before or not scored:
                raise ValueError(
                    f"nothing to score: {text[1]!r} after {text[0][-60:]!r} has no token of its own"
                )
        return Sequences.of([(before + scored, len(scored)) for before, scored in encoded])

    def windows(self, texts: Sequence[str], max_length: int) -> tuple[Sequences, list[int]]:
        """Whole texts as windows of `max_length` tokens that score every token once, and the text
        that each window belongs to."""
        sequences, owners = [], []
        for owner, tokens in enumerate(self._encode(texts)):
            windows = get_rolling_token_windows(
                tokens, self.prefix_token_id, max_seq_len=max_length, context_len=1
            )
            for context, scored in map(make_disjoint_window, windows):
                sequences.append((context + scored, len(scored)))
                owners.append(owner)
        return Sequences.of(sequences), owners

    def _encode(
        self, texts: Sequence[str], add_special_tokens: bool | None = None
    ) -> list[list[int]]:
        """Token ids of each text; None leaves special tokens to the tokenizer's own habit."""
        distinct = list(dict.fromkeys(texts))  # the choices of a question share its context
        ids: dict[str, list[int]] = {}
        for special in (True, False):
            if add_special_tokens is None:
                chosen = [t for t in distinct if t.startswith(self._prefix_text) is not special]
            else:
                chosen = distinct if add_special_tokens is special else []
            if chosen:
                encoded = self.tokenizer(
                    chosen,
                    add_special_tokens=special,
                    return_attention_mask=False,
                    return_token_type_ids=False,
                    verbose=False,
                )
                ids.update(zip(chosen, encoded["input_ids"], strict=True))
        return [ids[text] for text in texts]


def _move_trailing_space(context: str, continuation: str) -> tuple[str, str]:
    stripped = context.rstrip()
    return stripped, context[len(stripped) :] + continuation


def _prefix_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    for token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    raise ValueError("the tokenizer has neither a BOS nor an EOS token to stand for no context")


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Equal for tokenizers that turn every text into the same tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    # Written in Python, it cannot be compared by content: it equals none other.
    content = f"{type(tokenizer)} {uuid.uuid4()}" if backend is None else backend.to_str()
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    return hashlib.sha256(f"{special} {content}".encode()).hexdigest()
