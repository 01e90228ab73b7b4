"""A model and its tokenizer, made ready to score once: what they can do, and what was tokenized."""
