"""The text that models are trained on: the embedded addresses, or any folder of text files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evaluation.sotu.corpus import HOLD_OUT_EVERY, heldout_addresses, training_addresses
from quantizers.cache import kept

if TYPE_CHECKING:  # whoever only reads a text need not load them
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Text:
    """Documents in order; every tenth is held out of training."""

    name: str
    training: Sequence[str]
    heldout: Sequence[str]

    @property
    def version(self) -> str:
        """16 hex digits of the content."""
        digest = hashlib.sha256()
        for documents in (self.training, self.heldout):
            for document in documents:
                digest.update(hashlib.sha256(document.encode()).digest())
            digest.update(b"|")
        return digest.hexdigest()[:16]


def load_text(source: str) -> Text:
    """`sotu`, or the documents `*.txt` of a folder and its subfolders, by path.

    Raises ValueError for a folder with fewer than ten documents, or one that is not UTF-8 text.
    """
    if source == "sotu":
        name = "sotu, every tenth address by date held out"
        return Text(name, training_addresses(), heldout_addresses())
    folder = Path(os.path.expanduser(source))
    files = sorted(folder.rglob("*.txt"))
    if len(files) < HOLD_OUT_EVERY:
        raise ValueError(
            f"text {folder}: {len(files)} .txt files; at least {HOLD_OUT_EVERY} documents are "
            "needed, every tenth is held out"
        )
    documents = [_read(file) for file in files]
    numbered = list(enumerate(documents, start=1))
    return Text(
        f"{folder.name}, every tenth document held out",
        [d for i, d in numbered if i % HOLD_OUT_EVERY],
        [d for i, d in numbered if i % HOLD_OUT_EVERY == 0],
    )


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"text {file}: not UTF-8: {error}") from None


def write_samples(text: Text, folder: Path) -> None:
    """heldout.txt, all of what is held out, and training.txt, as much of the rest: for sweeps that
    score and calibrate models of this text."""
    size = sum(map(len, text.heldout))
    folder.mkdir(parents=True, exist_ok=True)
    for name, documents in (("heldout", text.heldout), ("training", text.training)):
        (folder / f"{name}.txt").write_text("\n\n".join(documents)[:size], encoding="utf-8")


@dataclass(frozen=True)
class Streams:
    """Token ids of a text, int64 [n_tokens] each."""

    name: str
    training: Tensor
    heldout: Tensor


def token_stream(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """Documents joined (and closed) by the end-of-text token: int64 ids of shape [n_tokens]."""
    import torch

    ids: list[int] = []
    for encoding in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]:
        ids += [*encoding, tokenizer.eos_token_id]
    return torch.tensor(ids)


def token_streams(text: Text, tokenizer: PreTrainedTokenizerFast) -> Streams:
    """Both streams of a text, kept in the cache: many runs share one text and tokenizer."""
    import torch

    tokenizer_version = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    cache = Path(os.environ.get("KBIT_CACHE") or "~/.cache/kbit").expanduser()
    path = cache / "training" / f"{text.version}-{tokenizer_version[:16]}.npz"

    def encode() -> dict[str, np.ndarray]:
        pairs = (("training", text.training), ("heldout", text.heldout))
        return {k: token_stream(v, tokenizer).numpy().astype(np.uint32) for k, v in pairs}

    arrays = kept(path, encode) or {}
    ids = {name: torch.from_numpy(array.astype(np.int64)) for name, array in arrays.items()}
    return Streams(text.name, ids["training"], ids["heldout"])
