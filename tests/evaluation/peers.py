"""What our scores are held against: the harness's own HFLM, and a plain loop where it is absent."""

from __future__ import annotations

import pytest
import torch
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

PEERS = ["plain", "hflm"]


class PlainLM(TemplateLM):
    """The harness's tokenization, then one unbatched forward a request. Nothing clever."""

    def __init__(self, model, tokenizer, max_length):
        super().__init__()
        self.model, self.tokenizer, self.max_length = model, tokenizer, max_length

    @property
    def eot_token_id(self):
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self):
        return self.tokenizer.bos_token_id

    def tok_encode(self, string, add_special_tokens=None, **kwargs):
        if add_special_tokens is None:
            prefix = self.tokenizer.decode(self.prefix_token_id)
            add_special_tokens = not string.startswith(prefix)
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    @torch.no_grad()
    def _loglikelihood_tokens(self, requests, **kwargs):
        answers = []
        for _, context, continuation in requests:
            tokens = torch.tensor([(context + continuation)[-(self.max_length + 1) :]])
            logits = self.model(tokens[:, :-1]).logits[0, -len(continuation) :].double()
            target = tokens[0, -len(continuation) :]
            logprob = logits.log_softmax(-1)[torch.arange(len(target)), target].sum()
            answers.append((logprob.item(), bool((logits.argmax(-1) == target).all())))
        return answers

    def loglikelihood_rolling(self, requests, disable_tqdm=True):
        totals = []
        for request in requests:
            windows = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, 1
            )
            pairs = [(None, *make_disjoint_window(window)) for window in windows]
            totals.append(sum(v for v, _ in self._loglikelihood_tokens(pairs)))
        return totals

    def generate_until(self, requests, disable_tqdm=True):
        raise NotImplementedError


def make_peer(kind: str, model, tokenizer, max_length: int):
    if kind == "plain":
        return PlainLM(model, tokenizer, max_length)
    pytest.importorskip("accelerate", reason="HFLM needs lm-eval's extra `hf` (accelerate, peft)")
    pytest.importorskip("peft", reason="HFLM needs lm-eval's extra `hf` (accelerate, peft)")
    from lm_eval.models.huggingface import HFLM

    # With its logits cache, HFLM scores some requests at the wrong positions: those that split one
    # token sequence at different places.
    return HFLM(model, tokenizer=tokenizer, batch_size=3, max_length=max_length, logits_cache=False)
