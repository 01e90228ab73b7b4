"""A model in, scores out: corpora, perplexity and zero-shot tasks."""
