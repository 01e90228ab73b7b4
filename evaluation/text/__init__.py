"""Corpora and the perplexity of a model on them."""
