"""lm-evaluation-harness's view of a resident model: its requests, our scoring engine.

One difference from its own HFLM, on purpose: where two requests split one token sequence at
different places, HFLM with its logits cache scores the shorter continuation at the wrong positions;
this does not.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NoReturn

from lm_eval.api.model import LM
from lm_eval.models.utils import resolve_max_length
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.encoding import Encoder
from evaluation.scoring import Scorer, Scores
from evaluation.sequences import Sequences

ENCODED_KEPT = 16
# Tokens, never scores: they may be shared by every model with the same tokenizer.
_encoded: OrderedDict[tuple[Any, ...], tuple[Sequences, list[int]]] = OrderedDict()


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
        self.encoder = Encoder(tokenizer)

    def score(self, sequences: Sequences, greedy: bool = True) -> Scores:
        """Scores of token sequences, cut on the left to what the model reads."""
        return Scorer(self.model, self.max_length).score(sequences, greedy)

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """(summed log-probability of the continuation, whether greedy decoding yields it) for each
        request with `args` (context, continuation). Raises ValueError for an empty continuation
        and for one longer than the model's context."""
        sequences, _ = self._encode("loglikelihood", tuple(r.args for r in requests))
        scores = self.score(sequences)
        assert scores.greedy is not None
        return list(zip(scores.logprob.tolist(), scores.greedy.tolist(), strict=True))

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = True
    ) -> list[float]:
        """Summed log-probability of each whole text, every token given as much context as fits."""
        texts = tuple(request.args for request in requests)
        sequences, owners = self._encode("loglikelihood_rolling", texts)
        totals = [0.0] * len(texts)
        for owner, logprob in zip(owners, self.score(sequences, greedy=False).logprob, strict=True):
            totals[owner] += float(logprob)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> NoReturn:
        raise ValueError("this engine scores given texts only; it does not run generation tasks")

    def _encode(self, kind: str, texts: tuple[tuple[str, ...], ...]) -> tuple[Sequences, list[int]]:
        """The tokens of these texts, and for windows the request that each belongs to."""
        windows = kind == "loglikelihood_rolling"
        key = (self.encoder.fingerprint, self.max_length if windows else None, kind, texts)
        if key not in _encoded:
            if windows:
                _encoded[key] = self.encoder.windows([text for (text,) in texts], self.max_length)
            else:
                _encoded[key] = (self.encoder.pairs(texts), [])
        _encoded.move_to_end(key)
        if len(_encoded) > ENCODED_KEPT:
            _encoded.popitem(last=False)
        return _encoded[key]
