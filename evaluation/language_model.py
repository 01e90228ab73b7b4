"""lm-evaluation-harness's view of a resident model: its requests, our scoring engine.

Tokenization follows HFLM of lm-eval 0.4.13 to the letter, so that scores agree with it:

- trailing spaces of a context move to the continuation; context + continuation are tokenized
  together and split at the length of the context tokenized alone;
- an empty context becomes the prefix token (BOS, else EOS), unless the continuation begins with it;
- special tokens as the tokenizer adds them, except where the text begins with the prefix token;
- sequences longer than the context lose tokens on the left.

One difference, on purpose: where two requests split one token sequence at different places, HFLM
with its logits cache scores the shorter continuation at the wrong positions; this does not.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NoReturn

from lm_eval.api.model import LM
from lm_eval.models.utils import resolve_max_length
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.scoring import Plan, Scorer, make_plan

log = logging.getLogger(__name__)

PLANS_KEPT = 16
# Plans hold tokens, never scores, and so may be shared by every model with the same tokenizer.
_plans: OrderedDict[tuple[Any, ...], tuple[Plan, list[int]]] = OrderedDict()


class LanguageModel(LM):
    """Log-likelihoods of texts under a resident transformers causal LM.

    The model's weights may be changed (quantized, restored) between calls: only tokens are kept.
    Scores are fp32 log-softmax of the model's logits, summed in float64, in nats.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None = None,
    ) -> None:
        """`max_length`: longest input in tokens; by default the model's context."""
        super().__init__()
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.max_length: int = max_length or resolve_max_length(model.config, tokenizer)
        self.prefix_token_id = _prefix_token_id(tokenizer)
        self._prefix_text = str(tokenizer.decode(self.prefix_token_id))
        self._scorer = Scorer(model)
        self._fingerprint = tokenizer_fingerprint(tokenizer)

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """(summed log-probability of the continuation, whether greedy decoding yields it) for each
        request with `args` (context, continuation). Raises ValueError for an empty continuation
        and for one longer than the model's context."""
        texts = tuple(request.args for request in requests)
        plan, _ = self._plan("loglikelihood", texts)
        scores = self._scorer.score(plan)
        return list(zip(scores.logprob.tolist(), scores.greedy.tolist(), strict=True))

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = True
    ) -> list[float]:
        """Summed log-probability of each whole text, every token given as much context as fits."""
        texts = tuple(request.args for request in requests)
        plan, owners = self._plan("loglikelihood_rolling", texts)
        totals = [0.0] * len(texts)
        for owner, logprob in zip(owners, self._scorer.score(plan).logprob, strict=True):
            totals[owner] += float(logprob)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> NoReturn:
        raise ValueError("this engine scores given texts only; it does not run generation tasks")

    def _plan(self, kind: str, texts: tuple[tuple[str, ...], ...]) -> tuple[Plan, list[int]]:
        """The batches of these texts and the request that each sequence belongs to."""
        budget = self._scorer.tokens_per_batch()
        key = (self._fingerprint, self.max_length, budget, kind, texts)
        if key in _plans:
            _plans.move_to_end(key)
            return _plans[key]
        if kind == "loglikelihood":
            sequences, owners = self._encode_pairs(texts), list(range(len(texts)))
        else:
            sequences, owners = self._encode_windows([text for (text,) in texts])
        _plans[key] = (make_plan(sequences, budget), owners)
        if len(_plans) > PLANS_KEPT:
            _plans.popitem(last=False)
        return _plans[key]

    def _encode_pairs(self, texts: Sequence[tuple[str, ...]]) -> list[tuple[list[int], int]]:
        """(tokens, how many at the end to score) of each (context, continuation)."""
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
        cut = sum(len(a) + len(b) > self.max_length + 1 for a, b in encoded)
        if cut:
            log.warning(
                "%d of %d contexts cut on the left to fit %d tokens",
                cut,
                len(texts),
                self.max_length,
            )
        return [self._fit(text, *tokens) for text, tokens in zip(texts, encoded, strict=True)]

    def _fit(
        self, texts: tuple[str, ...], context: list[int], continuation: list[int]
    ) -> tuple[list[int], int]:
        """Cut a sequence on the left to what the model can read."""
        if not context or not continuation:
            raise ValueError(
                f"nothing to score: {texts[1]!r} after {texts[0][-60:]!r} has no token of its own"
            )
        if len(continuation) > self.max_length:
            raise ValueError(
                f"continuation of {len(continuation)} tokens exceeds the model's context of "
                f"{self.max_length}: {texts[1][:60]!r}..."
            )
        return (context + continuation)[-(self.max_length + 1) :], len(continuation)

    def _encode_windows(
        self, texts: Sequence[str]
    ) -> tuple[list[tuple[list[int], int]], list[int]]:
        sequences, owners = [], []
        for owner, tokens in enumerate(self._encode(texts)):
            windows = get_rolling_token_windows(
                tokens, self.prefix_token_id, max_seq_len=self.max_length, context_len=1
            )
            for context, scored in map(make_disjoint_window, windows):
                sequences.append((context + scored, len(scored)))
                owners.append(owner)
        return sequences, owners

    def _encode(
        self, texts: Sequence[str], add_special_tokens: bool | None = None
    ) -> list[list[int]]:
        """Token ids of each text; None leaves special tokens to the tokenizer's own habit."""
        encoded: list[list[int]] = [[]] * len(texts)
        prefixed = [text.startswith(self._prefix_text) for text in texts]
        for special in (True, False):
            if add_special_tokens is None:
                chosen = [i for i, p in enumerate(prefixed) if p is not special]
            else:
                chosen = [i for i in range(len(texts)) if add_special_tokens is special]
            if chosen:
                ids = self.tokenizer(
                    [texts[i] for i in chosen], add_special_tokens=special, verbose=False
                )["input_ids"]
                for i, tokens in zip(chosen, ids, strict=True):
                    encoded[i] = tokens
        return encoded


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
    # A tokenizer written in Python cannot be compared by content: it equals itself alone.
    content = backend.to_str() if backend is not None else f"{type(tokenizer)} {id(tokenizer)}"
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    return hashlib.sha256(f"{special} {content}".encode()).hexdigest()
