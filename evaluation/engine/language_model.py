"""lm-evaluation-harness's view of a resident model: its requests, our scoring engine.

One difference from its own HFLM, on purpose: where two requests split one token sequence at
different places, HFLM with its logits cache scores the shorter continuation at the wrong positions;
this does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from lm_eval.api.model import LM

from evaluation.engine.engine import Engine
from evaluation.engine.scoring import Scores
from evaluation.engine.sequences import Sequences


class LanguageModel(LM):
    """Log-likelihoods of texts under an engine's model.

    The model's weights may be changed (quantized, restored) between calls: only tokens are kept.
    Scores are fp32 log-softmax of the model's logits, summed in float64, in nats.
    """

    def __init__(self, engine: Engine, context: int | None = None) -> None:
        """`context`: longest input in tokens; by default the model's. Raises ValueError for more
        than the model reads."""
        super().__init__()
        self.engine = engine
        self.max_length: int = engine.window(context)

    def score(self, sequences: Sequences, subject: str, greedy: bool = True) -> Scores:
        """Scores of token sequences, cut on the left to `max_length`; see `Engine.score`."""
        return self.engine.score(sequences, self.max_length, subject, greedy)

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """(summed log-probability of the continuation, whether greedy decoding yields it) for each
        request with `args` (context, continuation). Raises ValueError for an empty continuation
        and for one longer than the model's context."""
        sequences, _ = self._encode("loglikelihood", tuple(r.args for r in requests))
        scores = self.score(sequences, _subject(requests))
        assert scores.greedy is not None
        return list(zip(scores.logprob.tolist(), scores.greedy.tolist(), strict=True))

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = True
    ) -> list[float]:
        """Summed log-probability of each whole text, every token given as much context as fits."""
        texts = tuple(request.args for request in requests)
        sequences, owners = self._encode("loglikelihood_rolling", texts)
        totals = [0.0] * len(texts)
        scores = self.score(sequences, _subject(requests), greedy=False)
        for owner, logprob in zip(owners, scores.logprob, strict=True):
            totals[owner] += float(logprob)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> NoReturn:
        raise ValueError("this engine scores given texts only; it does not run generation tasks")

    def _encode(self, kind: str, texts: tuple[tuple[str, ...], ...]) -> tuple[Sequences, list[int]]:
        """The tokens of these texts, and for windows the request that each belongs to."""
        encoder, windows = self.engine.encoder, kind == "loglikelihood_rolling"

        def encode() -> tuple[Sequences, list[int]]:
            if windows:
                return encoder.windows([text for (text,) in texts], self.max_length)
            return encoder.pairs(texts), []

        encoded: tuple[Sequences, list[int]] = encoder.kept.get(
            (kind, self.max_length if windows else None, texts), encode
        )
        return encoded


def _subject(requests: Sequence[Any]) -> str:
    """What requests are for, in words."""
    return f"task {requests[0].task_name or 'of these requests'}" if requests else "nothing"
