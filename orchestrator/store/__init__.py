"""The results database: the only truth."""
