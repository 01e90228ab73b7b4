"""A study in, rows out: spec, grid, workers, store."""
