"""A model and windows of text, as the commands that look into models need them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.study.models import ModelEntry


def model_and_windows(
    entry: ModelEntry, corpus: str, device: str, *, tokens: int | None = None, windows: int = 0
) -> tuple[Any, list[list[int]], dict[str, Any]]:
    """The 16-bit model, computing as in a sweep, and windows of its context; their protocol.

    Of the corpus' first `tokens`, or so many whole windows. Raises ValueError where the corpus has
    fewer.
    """
    import torch
    from lm_eval.models.utils import resolve_max_length

    from evaluation.protocols import perplexity_protocol
    from evaluation.text.corpora import check_corpus, load_corpus
    from evaluation.text.perplexity import token_stream
    from orchestrator.run.worker import quiet_libraries
    from quantizers.loading import load_model

    quiet_libraries()
    check_corpus(corpus)  # before a model is loaded
    loaded, tokenizer = load_model(entry.checkpoint, device)
    model: Any = loaded.to(torch.float32) if device == "cpu" else loaded
    context = entry.context or resolve_max_length(model.config, tokenizer)
    max_tokens = tokens or windows * context
    protocol = perplexity_protocol(corpus, entry.context, max_tokens)
    ids = token_stream(tokenizer, load_corpus(corpus), max_tokens).ids
    cut = [ids[start : start + context] for start in range(0, len(ids), context)]
    if windows and len(ids) < max_tokens:
        raise ValueError(f"corpus {corpus}: {len(ids)} tokens; {windows} windows need {max_tokens}")
    return model, cut[:windows] if windows else cut, protocol
