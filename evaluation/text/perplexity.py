"""Perplexity of a resident model over a stream of tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from evaluation.engine.engine import Engine
from evaluation.engine.sequences import Sequences
from evaluation.measurement import Measurement, Metric
from evaluation.protocols import perplexity_protocol
from evaluation.text.corpora import corpus_name, load_corpus


@dataclass(frozen=True)
class TokenStream:
    """The beginning of a corpus: token ids, and the UTF-8 bytes of the text after the first."""

    ids: list[int]
    scored_bytes: int


def evaluate_perplexity(
    engine: Engine,
    corpus: str,
    context: int | None = None,
    max_tokens: int | None = None,
    data_files: str | None = None,
    bos: bool | Literal["auto"] = "auto",
    spread: int | None = None,
) -> Measurement:
    """Cross-entropy of a corpus in non-overlapping windows. `corpus` is a name, with `data_files`
    its local copy, or a file.

    The documents, each followed by EOS, form one stream t_0 t_1 t_2 ... of which the first
    `max_tokens` + 1 tokens are used (None: all). Window i reads t[i*c .. i*c+c-1], c = `context`
    (None: the model's), and predicts the token after each: every token is scored once except t_0,
    which nothing precedes. With `bos` (auto: for models that need it) a window reads BOS and then
    c - 1 tokens; the same tokens are scored. The last window may be short. `spread`: a sample, of
    so many of these windows, evenly over all (None: every one); its bytes are not counted.

    Metrics: `cross_entropy` in nats a token, `perplexity` (its exponential, inf where that
    overflows), `bits_per_byte` over the UTF-8 bytes of exactly the scored text (EOS costs nats and
    has no bytes), `tokens` scored. Standard errors take windows as clusters, weighted by their
    tokens. Items: nats a token of each window. A diverged model yields nan or inf, not an error.
    Raises ValueError for a corpus without two tokens, a context that the model cannot read, tokens
    that it has no embeddings for, and where BOS or EOS are lacking.
    """
    begins = engine.needs_bos if bos == "auto" else bos
    protocol = perplexity_protocol(corpus, context, max_tokens, data_files, begins)
    protocol |= {} if spread is None else {"spread": spread}
    window = engine.window(context)
    windows, scored_bytes = engine.encoder.kept.get(
        ("windows", corpus, data_files, protocol["data"], window, max_tokens, begins, spread),
        lambda: _windows(
            engine.encoder.tokenizer,
            corpus,
            data_files,
            max_tokens,
            _Window(window, begins, spread),
        ),
    )
    nats = -engine.score(windows, window, f"corpus {corpus_name(corpus)}", greedy=False).logprob
    tokens = windows.scored.astype(np.float64)
    metrics = _metrics(nats, tokens, scored_bytes)
    items = {"cross_entropy": (nats / tokens).astype(np.float32)}
    return Measurement(corpus_name(corpus), protocol, metrics, items)


@dataclass(frozen=True)
class _Window:
    """Tokens that are read at a time, whether the first of them is BOS, and how many windows are
    taken, spread over the text (None: all)."""

    size: int
    bos: bool
    spread: int | None = None

    def sample(self, starts: range) -> range | list[int]:
        """The starts of the windows that are taken; one that is short is last, and taken last."""
        if self.spread is None or self.spread >= len(starts):
            return starts
        return [starts[int((i + 0.5) * len(starts) / self.spread)] for i in range(self.spread)]


def token_stream(
    tokenizer: PreTrainedTokenizerBase, documents: list[str], n_tokens: int | None
) -> TokenStream:
    """The first `n_tokens` tokens (None: all) of the documents, each closed by EOS.

    Raises ValueError for a tokenizer without EOS.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("perplexity: the tokenizer has no EOS token to close a document with")
    ids: list[int] = []
    scored_bytes = 0
    for text in documents:
        encoding = tokenizer(
            text,
            add_special_tokens=False,
            return_offsets_mapping=tokenizer.is_fast,
            verbose=False,
        )
        start = 0 if ids else 1  # the stream's first token is not scored
        room = None if n_tokens is None else n_tokens - len(ids)
        tokens = encoding["input_ids"][:room]
        if len(tokens) > start:
            scored_bytes += _bytes_of(tokenizer, text, encoding, start, len(tokens))
        ids += [*tokens, tokenizer.eos_token_id][:room]
        if n_tokens is not None and len(ids) >= n_tokens:
            break
    return TokenStream(ids, scored_bytes)


def _bytes_of(
    tokenizer: PreTrainedTokenizerBase, text: str, encoding: Any, start: int, stop: int
) -> int:
    """UTF-8 bytes of the text of tokens start..stop-1."""
    if not tokenizer.is_fast:
        return len(str(tokenizer.decode(encoding["input_ids"][start:stop])).encode())
    offsets = encoding["offset_mapping"]
    first = offsets[start - 1][1] if start else 0
    last = offsets[stop - 1][1] if stop < len(offsets) else len(text)
    return len(text[first:last].encode())


def _windows(
    tokenizer: PreTrainedTokenizerBase,
    corpus: str,
    data_files: str | None,
    max_tokens: int | None,
    window: _Window,
) -> tuple[Sequences, int]:
    """The windows, and the bytes they score; the same for every precision of a model."""
    if window.bos and tokenizer.bos_token_id is None:
        raise ValueError(f"corpus {corpus_name(corpus)}: bos: the tokenizer has no BOS token")
    n_tokens = None if max_tokens is None else max_tokens + 1
    stream = token_stream(tokenizer, load_corpus(corpus, data_files), n_tokens)
    if len(stream.ids) < 2:
        raise ValueError(f"corpus {corpus!r} has {len(stream.ids)} tokens; 2 are needed")
    before = [tokenizer.bos_token_id] if window.bos else []
    step = window.size - len(before)
    starts = range(0, len(stream.ids) - 1, step)
    parts = [stream.ids[start : start + step + 1] for start in window.sample(starts)]
    sequences = Sequences.of([(before + part, len(part) - 1) for part in parts])
    return sequences, stream.scored_bytes if window.spread is None else 0


def _metrics(nats: np.ndarray, tokens: np.ndarray, scored_bytes: int) -> tuple[Metric, ...]:
    """From the nats and tokens of each window."""
    n, total = len(nats), float(tokens.sum())
    with np.errstate(all="ignore"):
        mean = float(nats.sum() / total)
        # A ratio of sums over clusters: residuals of each window's sum against its tokens.
        spread = np.sqrt(n / (n - 1) * ((nats - mean * tokens) ** 2).sum()) if n > 1 else None
        stderr = None if spread is None else float(spread / total)
        perplexity = float(np.exp(mean))
        bits = total / (math.log(2) * scored_bytes) if scored_bytes else math.inf

    def scaled(factor: float) -> float | None:
        return None if stderr is None else stderr * factor

    return (
        Metric("cross_entropy", mean, stderr, n),
        Metric("perplexity", perplexity, scaled(perplexity), n),
        Metric("bits_per_byte", mean * bits, scaled(bits), n),
        Metric("tokens", float(total), None, n),
    )
