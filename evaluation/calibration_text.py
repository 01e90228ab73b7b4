"""The tokens that a model is calibrated on: windows of joined documents, or of random tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from evaluation.sotu.corpus import training_addresses
from evaluation.text.corpora import load_corpus
from evaluation.text.perplexity import token_stream

RANDOM = "random"


@dataclass(frozen=True)
class CalibrationText:
    """Which windows of which text; `random`: token ids uniform over the vocabulary.

    `sotu` is its training addresses here, not those that are scored. `data_files`: as in corpora.
    """

    corpus: str
    windows: int = 128
    length: int = 2048  # tokens a window
    seed: int = 0
    data_files: str | None = None


def calibration_windows(
    text: CalibrationText, tokenizer: PreTrainedTokenizerBase, n_embeddings: int
) -> Tensor:
    """int64 [windows, length], the same on every machine, never padded.

    Documents in a random order, each closed by EOS, are joined until they hold enough tokens; of
    the windows that they are cut into a random sample is taken.

    n_embeddings: of the model, the ids that random tokens are drawn from. Raises ValueError for a
    text that is too short, and as `load_corpus` does.
    """
    random = torch.Generator().manual_seed(text.seed)
    if text.corpus == RANDOM:
        return torch.randint(n_embeddings, (text.windows, text.length), generator=random)
    documents = _documents(text)
    needed = text.windows * text.length
    ids: list[int] = []
    for place in torch.randperm(len(documents), generator=random).tolist():
        ids += token_stream(tokenizer, [documents[place]], None).ids
        if len(ids) >= needed:
            break
    if len(ids) < needed:
        raise ValueError(
            f"calibration: {text.corpus} has {len(ids)} tokens, {text.windows} windows of "
            f"{text.length} take {needed}; ask for fewer or shorter ones"
        )
    pieces = torch.tensor(ids[: len(ids) // text.length * text.length]).view(-1, text.length)
    return pieces[torch.randperm(len(pieces), generator=random)[: text.windows]]


def _documents(text: CalibrationText) -> list[str]:
    if text.corpus == "sotu" and text.data_files is None:
        return training_addresses()
    return load_corpus(text.corpus, text.data_files)
