"""Small language-model ladders trained from scratch: the embedded models."""
