"""One resident model and its tokenizer, made ready to score texts once, whatever its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from lm_eval.models.utils import resolve_max_length
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.engine.encoding import Encoder
from evaluation.engine.model_config import mended, needs_bos
from evaluation.engine.scoring import Scorer, Scores
from evaluation.engine.sequences import Sequences
from quantizers.checkpoint import UnusableModel

Score = Callable[[Sequences, bool, int], Scores]  # of sequences, greedy flags, tokens read


class Engine:
    """Scores tasks and corpora on a transformers causal LM, which it puts into eval mode.

    A worker makes one for each model that it holds: the tokenizer is serialized then, the model's
    abilities and batch size are found then (see `Scorer`), and what is tokenized is kept from one
    precision to the next. Scores are never kept, so the weights may change between calls.

    context: the most tokens that the model reads.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        earlier: Encoder | None = None,
    ) -> None:
        """`earlier`: another model's encoder; what it keeps serves where the tokenizers are alike.

        Raises ValueError for a tokenizer with neither BOS nor EOS.
        """
        self.model = model.eval()
        self.context: int = resolve_max_length(model.config, tokenizer)
        self.encoder = Encoder(tokenizer)
        if earlier is not None and earlier.fingerprint == self.encoder.fingerprint:
            self.encoder = earlier
        self.scorer = Scorer(model, self.context)
        self._score: Score = self.scorer.score
        self.finite = False  # whether scores must be: those of the model that is not quantized

    @property
    def needs_bos(self) -> bool:
        """Whether texts make sense to the model only after BOS."""
        return needs_bos(self.model.config.to_dict())

    @property
    def mended(self) -> dict[str, str]:
        """What protocols must say of how this model is scored (see `model_config.mended`)."""
        return mended(self.model.config.to_dict(), self.scorer.device.type)

    @property
    def tokens_per_batch(self) -> int:
        """The batch size that the model is scored with at present, in positions."""
        return self.scorer.tokens_per_batch

    def limit_tokens_per_batch(self, most: int) -> None:
        """Score in batches of at most `most` positions from here on."""
        self.scorer.tokens_per_batch = min(self.scorer.tokens_per_batch, most)

    @contextmanager
    def scored_by(self, score: Score) -> Iterator[None]:
        """Within it all sequences are scored by this function instead of by the engine's scorer."""
        before, self._score = self._score, score
        try:
            yield
        finally:
            self._score = before

    def window(self, context: int | None) -> int:
        """Tokens read at a time where a protocol asks for `context` (None: all the model reads).

        Raises ValueError for more than the model reads.
        """
        if context is not None and context > self.context:
            raise ValueError(
                f"context {context} exceeds the {self.context} tokens that the model can read; "
                "give a smaller `context`, or none for the model's own"
            )
        return context or self.context

    def score(self, sequences: Sequences, window: int, subject: str, greedy: bool = True) -> Scores:
        """Scores of token sequences, cut on the left to `window` tokens (see `Scorer.score`).

        Raises ValueError where a token has no embedding, naming the subject (a task, a corpus), and
        UnusableModel where scores are to be finite and are not.
        """
        embeddings = len(self.model.get_input_embeddings().weight)
        if sequences.largest >= embeddings:
            token = self.encoder.tokenizer.convert_ids_to_tokens(sequences.largest)
            raise ValueError(
                f"{subject}: its text has token {sequences.largest} ({token!r}), the model has "
                f"{embeddings} embeddings; give the matching `tokenizer:` in models.yaml, or leave "
                f"{subject} out for this model"
            )
        scores = self._score(sequences, greedy, window)
        lost = int((~np.isfinite(scores.logprob)).sum())
        if lost and self.finite:
            raise UnusableModel(
                f"{subject}: {lost} of {len(scores.logprob)} texts have no finite score at 16 bit, "
                "before anything is quantized: a model that overflows float16 takes dtype: bfloat16"
            )
        return scores
