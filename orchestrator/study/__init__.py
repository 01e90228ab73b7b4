"""A study in: what is asked for, as values."""
